"""`fedstrata superlink`: what it does not know is Flower's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedstrata.cli import superlink
from fedstrata.cli.superlink import main


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    words: list[str] = []
    monkeypatch.setattr(superlink, "become", words.extend)
    before = os.umask(0o022)
    yield words
    os.umask(before)


def test_flowers_options_are_handed_on(
    tmp_path: Path, became: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "link"
    fleet = ["--fleet-api-address", "0.0.0.0:9092"]
    main(["--keys", str(tmp_path), "--state", str(state), *fleet])
    assert became[-2:] == fleet
    assert str(state / "superlink.db") in became
    assert "fedstrata superlink: the Control port is 127.0.0.1:9093" in capsys.readouterr().err


def test_an_open_control_port_is_refused_before_anything_is_made(
    tmp_path: Path, became: list[str]
) -> None:
    words = ["--insecure", "--state", str(tmp_path / "link")]
    with pytest.raises(SystemExit, match=r"^fedstrata superlink: --control-api-address 0\.0\.0\.0"):
        main([*words, "--control-api-address", "0.0.0.0:9093"])
    assert became == []
    assert list(tmp_path.iterdir()) == []


def test_keys_or_none_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--state", "x"])
    assert "--keys --insecure" in capsys.readouterr().err
