"""Rankings are those of torchmetrics, and exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from models.training.rankings import Ranking

pairs = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


@given(pairs)
def test_areas_are_those_of_torchmetrics(given: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in given], np.float32) / 4  # with many ties
    holds = np.array([each for _, each in given])
    ranking = Ranking.of(scores, holds)
    if not ranking.has_both():
        assert np.isnan(ranking.auroc(np.ones((1, len(scores))))[0])
        return
    chances = torch.from_numpy(scores).double().sigmoid()
    labels = torch.from_numpy(holds).long()
    area = float(binary_auroc(chances, labels))
    assert ranking.auroc(np.ones((1, len(scores))))[0] == pytest.approx(area, abs=1e-6)
    precision = float(binary_average_precision(chances, labels))
    assert ranking.average_precision() == pytest.approx(precision, abs=1e-6)


@given(pairs, st.integers(0, 1000))
def test_a_weight_is_an_example_that_occurs_so_often(
    given: list[tuple[int, bool]], seed: int
) -> None:
    scores = np.array([score for score, _ in given], np.float32)
    holds = np.array([each for _, each in given])
    rows = np.random.default_rng(seed).integers(0, len(scores), len(scores))
    weights = np.bincount(rows, minlength=len(scores)).astype(float)[None]
    repeated = Ranking.of(scores[rows], holds[rows]).auroc(np.ones((1, len(rows))))
    assert np.array_equal(Ranking.of(scores, holds).auroc(weights), repeated, equal_nan=True)


def test_a_perfect_ranking_has_exactly_one() -> None:
    scores = np.random.default_rng(0).random(999).astype(np.float32)
    ranking = Ranking.of(scores, scores > 0.5)
    assert ranking.auroc(np.ones((1, 999)))[0] == 1.0
    assert ranking.average_precision() == pytest.approx(1.0)
