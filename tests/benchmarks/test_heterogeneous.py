"""The command line of the comparison with different networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import heterogeneous
from benchmarks.accuracy.study import Case
from benchmarks.heterogeneous import METHODS, main, needed, with_last_layer
from benchmarks.personalised import existing, methods


def test_its_methods_exist() -> None:
    assert set(METHODS) <= set(existing())


def test_every_method_is_compared_somewhere() -> None:
    assert {*METHODS, *methods(), "layers"} == set(existing())


def test_only_the_last_layer_has_one_shape_everywhere() -> None:
    case = with_last_layer(Case("lg_fedavg", ("method=lg_fedavg",)))
    assert case.overrides == ("method=lg_fedavg", "method.common=[head.out]")
    assert with_last_layer(Case("fd", ("method=fd",))).overrides == ("method=fd",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--quick", "--methods", "fedavg"], "--methods: no method 'fedavg'"),
        (["--quick", "--methods", "fedproto:weight=-1"], "--methods: method.weight must be 0"),
        (["--quick", "--htfllib", "/nowhere"], "has no system/main.py"),
        (["--sets", "har-dirichlet"], "--har is needed"),
        (["--sets", "htfe2-dirichlet"], "--mnist is needed"),
    ],
)
def test_a_mistake_is_named(
    given: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("FEDSTRATA_DATA", raising=False)
    with pytest.raises(SystemExit):
        main(given)
    assert said in capsys.readouterr().err


def test_only_the_data_of_the_chosen_sets_are_needed() -> None:
    assert needed(["har-dirichlet"]) == {"--har"}
    assert needed(heterogeneous.SETS) == {"--har", "--mnist"}


def test_a_quick_look_is_few_methods_over_drawn_faces(monkeypatch, tmp_path: Path) -> None:
    played = []

    def run(self, simulator, folder, command) -> None:
        played.append((self.dataset.name, [case.name for case in self.cases], self.rates))

    monkeypatch.setattr(heterogeneous.HeterogeneousTable, "run", run)
    main(["--quick", "--work", str(tmp_path)])
    main(["--quick", "--work", str(tmp_path), "--methods", "fedtgp", "--finished"])
    assert played == [
        ("faces", ["local", "lg_fedavg", "fedproto"], (0.05,)),
        ("faces", ["fedtgp"], (0.05,)),
    ]
