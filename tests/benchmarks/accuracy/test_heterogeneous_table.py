"""The table for sites with different networks: a row a method, kB, and which orders hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import heterogeneous_sets as sets
from benchmarks.accuracy.heterogeneous_sets import HeterogeneousSet
from benchmarks.accuracy.heterogeneous_table import COLUMNS, HeterogeneousTable, said
from benchmarks.accuracy.htfllib import HtPeer
from benchmarks.accuracy.personalised_runs import Chosen
from benchmarks.accuracy.personalised_sets import TRAINING, cases
from benchmarks.accuracy.pfllib import Played
from benchmarks.accuracy.study import Case
from benchmarks.collect import page
from benchmarks.heterogeneous import METHODS, with_last_layer
from tests.helpers.runs import SMALL
from tests.helpers.simulators import LoopbackSimulator

FEW = HeterogeneousSet(
    "few",
    "a few faces",
    "faces",
    2,
    None,
    (
        *(word for word in SMALL if not word.startswith("model")),
        "groups=all_common",
        "data.tasks=[gender]",
        "+model@models.one=small_cnn",
        "+model@models.two=fedavg_cnn",
        "model.head=[8]",
        *TRAINING,
        "strategy.rounds=2",
    ),
    rounds=2,
    peer_model=sets.HTFE2,
    pictures=False,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("heterogeneous")
    chosen = tuple(
        map(with_last_layer, cases(("local", "lg_fedavg", "fedproto", "fedktl"), METHODS))
    )
    with pytest.MonkeyPatch.context() as peers:
        peers.setattr(HtPeer, "play", lambda *given: Played([0.25, 0.5], 3.0, ["-algo"]))
        table = HeterogeneousTable(FEW, chosen, (0.05,), (1,), HtPeer(folder))
        table.run(LoopbackSimulator(folder), folder / "it", "python -m it")
    return json.loads((folder / "it" / "heterogeneous-few.json").read_text()), folder / "it"


def test_every_method_has_a_row_and_says_what_it_sends(written) -> None:
    result, folder = written
    rows = result["tables"][0]["rows"]
    assert list(rows) == ["local", "lg_fedavg", "fedproto", "majority class"]
    assert set(rows["fedproto"]) == set(COLUMNS[1:])
    assert rows["local"]["kB up"] == "0"
    assert 0 < float(rows["lg_fedavg"]["kB up"]) < 2  # a last layer of 8 by 2
    assert rows["lg_fedavg"]["sites better alone"].endswith(" of 2")
    assert "fedktl needs pictures." in result["notes"]
    assert "## Sites with different networks" in page(folder)


def test_htfllib_stands_beside(written) -> None:
    beside = written[0]["tables"][1]
    assert "beside HtFLlib" in beside["title"]
    assert beside["rows"]["fedproto"]["HtFLlib, best on test, %"] == {"values": [0.5]}
    assert any("HtFLlib plays one run" in note for note in written[0]["notes"])


def chosen_with(values: dict[str, float]) -> dict[str, Chosen]:
    def run(accuracy: float) -> dict[str, Any]:
        sites = {"a": {"accuracy": accuracy}}
        return {"seed": 1, "best": {"sites": sites}, "final": {"sites": sites}}

    return {name: Chosen(Case(name, ()), 0.1, {}, [run(value)]) for name, value in values.items()}


def test_the_orders_of_the_papers_are_said() -> None:
    notes = said(
        chosen_with({"local": 0.8, "fedproto": 0.75, "fedtgp": 0.9, "fedktl": 0.85}), (0.1,), (1, 2)
    )
    text = " ".join(notes)
    assert "fedtgp +10.00, fedktl +5.00; not better: fedproto -5.00." in text
    assert "fedtgp over fedproto, as in the papers, holds here: +15.00 points." in text
    assert "fedktl over fedtgp, as in the papers, does not hold here: -5.00 points." in text
    assert "Best here: fedtgp; best in the papers: fedktl." in text
    assert "1 seed only: local, fedproto, fedtgp, fedktl." in text
