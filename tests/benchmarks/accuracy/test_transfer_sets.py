"""Every case of every set is a configuration of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy import transfer_sets
from benchmarks.accuracy.transfer_sets import TransferSet
from benchmarks.flower.site_data import sites_data
from benchmarks.measure.footprint import footprint
from server_app.compose import compose
from tests.helpers.text_models import tiny_bert

SETS = [
    transfer_sets.drawn_faces(2, 10),
    transfer_sets.pneumonia(Path("/d"), Path("/w.npz"), 2, 10, skewed=True),
    transfer_sets.deployment(2),
    transfer_sets.text(Path("/d"), Path("/m/tiny-bert"), 4, "topic", 2, None),
]


@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.name)
def test_every_case_is_a_configuration_of_its_own(dataset: TransferSet) -> None:
    configs = [
        compose(dataset.experiment, [*dataset.overrides, *case.overrides]) for case in dataset.cases
    ]
    assert len({str(config.to_dict()) for config in configs}) == len(configs)
    assert len({case.name for case in dataset.cases}) == len(configs)


def test_labels_are_in_the_name_and_in_the_configuration() -> None:
    few, every = transfer_sets.drawn_faces(2, 10), transfer_sets.drawn_faces(2, None)
    assert (few.name, every.name) == ("faces-10", "faces-all")
    assert "data.labels_per_class=10" in few.overrides
    assert "data.labels_per_class=null" in every.overrides


def test_questions_that_differ_have_heads_that_differ() -> None:
    for case in transfer_sets.drawn_faces(2, 10).cases:
        config = compose("faces", [*case.overrides])
        assert "head" not in config.groups["common"]


def test_a_frozen_text_encoder_needs_less_memory(tmp_path: Path, own_home: Path) -> None:
    pytest.importorskip("transformers")
    encoder = tiny_bert(own_home / "models", ["good", "bad", "bread", "music"])
    rows = [
        f"{word} {topic} {number},{word},{topic}"
        for topic in ("bread", "music")
        for word in ("good", "bad")
        for number in range(20)
    ]
    texts = tmp_path / "notes.csv"
    texts.write_text("\n".join(["text,label,topic", *rows]))
    dataset = transfer_sets.text(texts, encoder, 2, "topic", 1, None)
    small = ("data.length=12", "model.head=[8]")
    frozen, _, whole = (
        compose("text", [*dataset.overrides, *small, *case.overrides]) for case in dataset.cases
    )
    (data, _) = sites_data(frozen, 2, texts)
    costs = [footprint(config, data) for config in (frozen, whole)]
    assert costs[0].activations + costs[0].optimizer < costs[1].activations + costs[1].optimizer
    assert costs[0].sent < costs[1].sent
