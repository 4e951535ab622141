"""`fedstrata node`: Flower's own options and ours, with a version of Flower that was tested."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedstrata.cli.node import main
from site_guard import supernode


def test_the_help_has_flowers_options_and_ours() -> None:
    code = "from fedstrata.cli.main import main; main(['node', '--help'])"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "--poll" in said
    assert "--clientappio-api-address" in said


def test_another_version_of_flower_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(options: object) -> None:
        raise AssertionError("it is started all the same")

    monkeypatch.setattr(supernode, "version", lambda package: {"flwr": "1.32.0"}[package])
    monkeypatch.setattr("fedstrata.cli.node.start", started)
    with pytest.raises(SystemExit, match=r"^Flower 1\.32\.0 is installed"):
        main(["--superlink", "127.0.0.1:1"])
