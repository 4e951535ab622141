"""Measures of each class in results.json: by name for a site, and over the sites of a task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.training.class_measures import Measured, of_classes
from server_app.class_records import over_sites, record_of


def measured(examples: int, seed: int) -> Any:
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (examples,), generator=drawn)
    outputs = torch.randn(examples, 2, generator=drawn)
    split = Measured(outputs + torch.nn.functional.one_hot(labels, 2), labels)
    return of_classes(split, split, np.random.default_rng(0)), split


def site(examples: int, seed: int, *, coarse: bool = False) -> dict[str, Any]:
    found, _ = measured(examples, seed)
    by_class = found.coarse() if coarse else found
    return {"examples": float(examples), **record_of(by_class, ("low", "high"))}


def test_a_site_has_its_classes_by_name() -> None:
    record = site(60, 1)
    assert list(record) == ["examples", "by_class", "confusion", "calibration", "roc"]
    high = record["by_class"]["high"]
    assert sum(high["counts"].values()) == 60
    assert high["sensitivity"] == pytest.approx(
        high["counts"]["tp"] / sum(record["confusion"][1]), abs=1e-6
    )
    assert high["intervals"]["npv"][0] <= high["npv"] <= high["intervals"]["npv"][1]
    assert list(record["roc"]) == ["high"]
    assert record_of(None, ("low", "high")) == {}


def test_a_task_has_sums_of_counts_and_weighted_means_of_rates() -> None:
    sites = [site(60, 1), site(120, 2)]
    task = over_sites(sites)
    assert np.sum(task["confusion"]) == 180
    high = task["by_class"]["high"]
    assert sum(high["counts"].values()) == 180
    means = [each["by_class"]["high"]["ppv"] for each in sites]
    assert high["ppv"] == pytest.approx((means[0] + 2 * means[1]) / 3)
    assert len(task["roc"]["high"]) == 51
    assert task["roc"]["high"][-1] == 1.0


def test_calibration_of_a_task_is_that_of_all_its_examples() -> None:
    parts = [measured(60, 1)[1], measured(120, 2)[1]]
    whole = Measured(
        torch.cat([part.outputs for part in parts]), torch.cat([part.labels for part in parts])
    )
    expected = of_classes(whole, whole, np.random.default_rng(0))
    assert expected is not None
    found = over_sites([site(60, 1), site(120, 2)])["calibration"]
    assert found["error"] == pytest.approx(expected.calibration_error, abs=1e-5)
    for mine, theirs in zip(found["bins"], expected.calibration, strict=True):
        assert mine == (None if theirs is None else pytest.approx(list(theirs), abs=1e-5))


def test_a_site_without_counts_leaves_the_task_without() -> None:
    task = over_sites([site(60, 1), site(120, 2, coarse=True)])
    assert task["confusion"] is None
    assert task["by_class"]["high"]["counts"] is None
    assert task["by_class"]["high"]["sensitivity"] is not None


def test_a_task_whose_sites_say_nothing_has_nothing() -> None:
    assert over_sites([{"examples": 4.0}]) == {}
    silent = over_sites([site(60, 1), {"examples": 4.0}])
    assert np.sum(silent["confusion"]) == 60


def test_a_task_with_nothing_known_has_no_calibration() -> None:
    record = site(60, 1)
    record["calibration"] = {"error": None, "bins": [None] * 10}
    assert over_sites([record])["calibration"] == {"error": None, "bins": [None] * 10}
