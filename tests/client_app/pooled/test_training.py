"""How often pooled training goes over the data, and what it gives of each site."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.flower.site_data import sites_data
from client_app.feature_cache import FeatureCache
from client_app.pooled.training import OnePlace, by_task, round_settings
from fedstrata.protocol.plan import Plan
from server_app.compose import compose
from strategies.config import plan_for
from tests.helpers.runs import PLAIN, SMALL


def test_pooled_training_makes_as_many_passes_as_the_sites() -> None:
    def plan(*overrides: str) -> Plan:
        return plan_for(compose("faces", [*SMALL, *overrides]), federation="central", weights="")

    steps = plan("train.epochs=null", "train.steps=6", "train.batch_size=8")
    assert round_settings(steps, 1, 96, 4).config.epochs == 2  # 6 steps of 8, of 24 pictures a site
    epochs = plan("train.epochs=3")
    assert round_settings(epochs, 1, 96, 4).config.epochs == 3


def test_it_measures_each_site_on_both_splits_and_says_how_it_went(tmp_path: Path) -> None:
    config = compose("faces", [*PLAIN, "data.tasks=[gender,age_years]"])
    sites = sites_data(config, 4, None)
    features = FeatureCache(tmp_path, 10**9, "float32")
    plan = plan_for(config, federation="f", weights="")
    place = OnePlace(plan, {}, features, torch.device("cpu"))
    measured, curve = place.train(by_task(sites), every_round=True)
    assert list(measured) == ["site-00", "site-01", "site-02", "site-03"]
    assert {name: len(found["test"]) > 3 for name, found in measured.items()}.values()
    assert len(curve) == plan.rounds
    classes = [measured[name]["test"]["accuracy"] for name in ("site-00", "site-02")]
    assert curve[-1] == pytest.approx(sum(map(float, classes)) / 2)
    _, last = place.train(by_task(sites), every_round=False)
    assert last == curve[-1:]
