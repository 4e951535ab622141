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
    monkeypatch.setattr("fedstrata.cli.node.close_memory", str)  # not that of these tests
    kept: list[bool] = []
    monkeypatch.setattr("fedstrata.cli.node.keep_freed_memory", lambda: kept.append(True))
    with pytest.raises(SystemExit, match=r"^Flower 1\.32\.0 is installed"):
        main(["--superlink", "127.0.0.1:1"])
    assert kept


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
def test_its_memory_is_closed_before_flower_starts() -> None:
    code = """if True:
        import ctypes, resource
        from fedstrata.cli import node
        kernel, get_dumpable = ctypes.CDLL(None), 3
        assert kernel.prctl(get_dumpable, 0, 0, 0, 0) == 1
        node.prepare = lambda poll: None
        node.start = lambda options: print(
            kernel.prctl(get_dumpable, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)
        )
        node.main([])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 (0, 0)\n"
