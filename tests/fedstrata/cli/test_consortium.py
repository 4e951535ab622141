"""`fedstrata consortium`: what is wrong with a command is said in one sentence, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrata.cli.consortium import main, parser


@pytest.mark.parametrize(
    "arguments",
    [
        ["found", "FILE/made", "--server", "localhost"],
        ["add", "FILE/made", "--hospital", "a:x"],
        ["add", "nowhere", "--hospital", "a:x"],
        ["renew", "nowhere", "--server", "localhost"],
        ["register", "nowhere", "connection"],
    ],
)
def test_an_impossible_folder_is_an_error_in_one_sentence(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "FILE").write_text("")
    command, folder, *rest = arguments
    with pytest.raises(SystemExit, match=r"^fedstrata consortium: .*(FILE|nowhere)"):
        main([command, str(tmp_path / folder), *rest])


def test_a_hospital_is_added_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["add", str(tmp_path)])
    assert "--hospital" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hospital", "a:gender"],
        ["--server", "a b"],
        ["--server", "localhost", "--hospital", "a"],
        ["--server", "localhost", "--hospital", "../a:gender"],
        ["--server", "localhost", "--hospital", "a:x", "--hospital", "a:y"],
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    tmp_path: Path, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit, match=r"--(server|hospital)"):
        main(["found", str(tmp_path / "made"), *arguments])
    assert not (tmp_path / "made").exists()


def test_arguments_can_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("--name\nmarch\n-c\noverrides=strategy.rounds=3 seed=1\n")
    found = parser().parse_args(["run", "testbed", f"@{path}"])
    assert (found.name, found.pairs) == ("march", ["overrides=strategy.rounds=3 seed=1"])
