"""The command line of the comparison of personalised methods."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import personalised
from benchmarks.personalised import SETS, choose, main, methods, parser


def test_all_methods_are_compared_and_the_rows_to_compare_with_come_first() -> None:
    assert methods()[:2] == ("local", "fedavg")
    assert {"fedprox", "fedper", "fedbn", "lg_fedavg"} <= set(methods())
    assert "layers" not in methods()
    assert parser().parse([]).methods == methods()


@pytest.mark.parametrize(("name", "option"), [("har", "--har"), ("pacs", "--pacs")])
def test_data_that_is_missing_is_named_before_anything_runs(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDSTRATA_DATA", raising=False)
    with pytest.raises(SystemExit):
        main(["--sets", "faces", name])
    assert f"{option} is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "fedpro"], "--methods: no method 'fedpro'"),
        (["--methods", "fedprox:mu=-1"], "--methods: method.mu must be 0 or greater"),
        (["--methods", "fedprox:nu=1"], "--methods: "),
        (["--rates", "0"], "no learning rate above 0"),
        (["--pfllib", "/nowhere"], "has no system/main.py"),
        (["--nodes", "3"], "--nodes: 10 sites are not 3 equal parts"),
        (["--gpus", "2"], "no share of a GPU from 0 to 1"),
    ],
)
def test_a_mistake_is_named(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--sets", "faces", *given])
    assert said in capsys.readouterr().err


def test_every_set_can_be_chosen(tmp_path: Path) -> None:
    for folder in ("mnist", "pacs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mnist" / "site-00.npz").write_bytes(b"x")
    words = [f"--{name}={tmp_path / name}" for name in ("har", "mnist", "pacs", "weights")]
    options = parser().parse([*words, "--rounds", "3"])
    chosen = [choose(name, options, tmp_path / "work") for name in SETS]
    assert [each.name for each in chosen] == list(SETS)
    assert all(each.rounds == 3 for each in chosen)


def test_the_published_figures_have_2000_rounds(tmp_path: Path) -> None:
    options = parser().parse(["--cifar100", str(tmp_path)])
    assert choose("cifar100", options, tmp_path / "work").rounds == 2000


def test_a_quick_look_is_few_methods_over_drawn_faces(monkeypatch, tmp_path: Path) -> None:
    played = []

    def run(self, simulator, folder, command) -> None:
        played.append((self.dataset.name, [case.name for case in self.cases], self.seeds))

    monkeypatch.setattr(personalised.PersonalTable, "run", run)
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path))
    main(["--quick", "--work", str(tmp_path)])
    main(["--quick", "--work", str(tmp_path), "--methods", "local", "fedbn"])
    main(["--quick", "--work", str(tmp_path), "--sets", "cifar100"])
    assert played == [
        ("faces", ["local", "fedavg", "fedper"], (1,)),
        ("faces", ["local", "fedbn"], (1,)),
        ("cifar100", ["local", "fedavg", "fedper"], (1,)),
    ]
