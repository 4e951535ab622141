"""`fedstrata site keygen`: what it prints is what the coordinator needs, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrata.cli.site import main


def test_it_prints_the_public_lines_and_no_private_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["keygen", str(tmp_path / "keys"), "--name", "north"])
    printed = capsys.readouterr().out
    assert (tmp_path / "keys" / "supernode.pub").read_text().strip() in printed
    assert (tmp_path / "keys" / "audit.pub").read_text().strip() in printed
    assert "PRIVATE" not in printed


def test_a_name_that_no_roster_takes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--name"):
        main(["keygen", str(tmp_path / "keys"), "--name", "../north"])
    assert not (tmp_path / "keys").exists()
