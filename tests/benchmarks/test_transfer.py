"""The command line of the sets of transfer."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.transfer import SETS, choose, main, parser


def test_labels_are_numbers_or_all() -> None:
    assert parser().parse([]).labels == [10]
    assert parser().parse(["--labels", "4", "all"]).labels == [4, None]
    with pytest.raises(SystemExit):
        parser().parse(["--labels", "10", "al"])


@pytest.mark.parametrize(("name", "option"), [("pacs", "--pacs"), ("text", "--texts")])
def test_data_that_is_missing_is_named_before_anything_runs(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDSTRATA_DATA", raising=False)
    with pytest.raises(SystemExit):
        main(["--sets", "faces", name])
    assert f"{option} is needed" in capsys.readouterr().err


def test_every_set_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "pacs" / "photo").mkdir(parents=True)
    words = [f"--{name}={tmp_path / name}" for name in ("pacs", "pneumonia", "weights", "texts")]
    options = parser().parse([*words, "--encoder", str(tmp_path / "bert"), "--rounds", "3"])
    names = [name for name in SETS if name != "deployment"]
    chosen = {name: choose(name, options, tmp_path / "work", 10) for name in names}
    assert {name: each.name for name, each in chosen.items()} == {
        "pneumonia": "pneumonia-iid-10",
        "skewed": "pneumonia-skewed-10",
        "pacs": "pacs-10",
        "faces": "faces-10",
        "text": "text-10",
    }
    assert all("strategy.rounds=3" in each.overrides for each in chosen.values())
    assert (tmp_path / "work" / "home" / "models" / "bert").is_dir()
