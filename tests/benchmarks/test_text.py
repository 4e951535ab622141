"""Texts among the ways of transfer: an encoder from a folder, one topic a site."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy import transfer_sets as ways
from benchmarks.transfer import Transfer
from tests.benchmarks.accuracy.test_study import Loopback
from tests.server_app.test_text import notes  # noqa: F401

pytest.importorskip("transformers")


def test_texts_of_four_topics(tmp_path: Path, own_home: Path, notes: Path) -> None:  # noqa: F811
    held = ways.text(notes, own_home / "models" / "tiny-bert", 4, "topic", 1, None)
    more = ("data.length=12", "model.head=[8]", "train.epochs=1", "strategy.poll=0.01")
    held = ways.Set(**{**vars(held), "overrides": (*held.overrides, *more)})
    Transfer(held, (1,)).run(Loopback(tmp_path), tmp_path / "output", "python -m it")
    rows = json.loads((tmp_path / "output" / "transfer-text-all.json").read_text())["tables"][0][
        "rows"
    ]
    assert set(rows) == {*(way.name for way in held.ways), "majority class"}
    frozen, _, whole, _ = rows.values()
    assert float(frozen["MB to train with"]) < float(whole["MB to train with"])
