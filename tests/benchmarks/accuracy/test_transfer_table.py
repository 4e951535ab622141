"""The table of a set has every case beside the same sites alone and pooled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.study import Case
from benchmarks.accuracy.transfer_sets import TransferSet
from benchmarks.accuracy.transfer_table import TransferTable, megabytes, steps_note, summary
from benchmarks.collect import page
from models.training.data import ArrayInputs, SiteData, Split
from server_app.compose import compose
from tests.helpers.runs import SMALL
from tests.helpers.simulators import LoopbackSimulator

DATA = tuple(each for each in SMALL if not each.startswith(("model", "weights", "groups")))
BASE = ("model=small_cnn", "weights=none", "groups=body_common_head_task")
CASES = (Case("all", BASE), Case("alone", (*BASE, "method=local")))
FEW = TransferSet("few", "a few faces", "faces", 2, None, (*DATA, "baselines.alone=true"), CASES)


def test_the_real_apps_fill_the_table(tmp_path: Path) -> None:
    TransferTable(FEW, (1,)).run(LoopbackSimulator(tmp_path), tmp_path / "it", "python -m it")
    written = json.loads((tmp_path / "it" / "transfer-few.json").read_text())
    rows = written["tables"][0]["rows"]
    assert list(rows) == ["all", "alone", "majority class"]
    assert rows["alone"]["federated, %"] == rows["alone"]["same sites alone, %"]
    assert rows["alone"]["pooled, %"] is None
    assert len(rows["all"]["pooled, %"]["values"]) == 1
    assert rows["alone"]["MB sent a site and round"] == "0"
    assert written["notes"][-1].endswith("than a site: 6 where a site makes 3.")  # of 48 and 24
    for name in ("transfer-few.png", "transfer-few-sites.png"):
        assert f"(results/{name})" in page(tmp_path / "it")


@pytest.mark.parametrize("labels", [None, 10])
def test_few_labels_are_named_as_a_reason_only_where_they_are_few(labels: int | None) -> None:
    mean = {"accuracy": 0.5, "alone_accuracy": 0.6, "majority_accuracy": 0.7}
    final = {"sites": {"a": mean}, "mean": mean}
    results = {"final": final, "config": {"data": {"labels_per_class": labels}}}
    text = summary({"all": [results]})
    assert "below the majority class (70.00 %)" in text
    assert ("as many labels of each class" in text) == (labels is not None)
    assert text.endswith("better than the federation in: all.")


def test_pooled_training_makes_more_steps() -> None:
    split = Split(ArrayInputs(np.zeros((24, 2), np.float32)), np.zeros(24, np.int64))
    sites = [SiteData(name, "t", ("a",), (2,), split, split, split) for name in "abcd"]
    config = compose("faces", ["train.batch_size=8", "train.epochs=1"])
    assert "12 where a site makes 3." in steps_note([config, config], sites)


def test_sizes_have_three_significant_digits() -> None:
    assert [megabytes(size) for size in (31_812_345, 3_146_000, 2_058)] == [
        "31.8",
        "3.15",
        "0.00206",
    ]
