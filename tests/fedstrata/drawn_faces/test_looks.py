"""Looks are what a picture shows besides the answers to the five questions."""

from __future__ import annotations

import numpy as np
import pytest

from fedstrata.drawn_faces import ATTRIBUTES, LOOKS, draw


def test_each_look_is_a_share_and_differs_between_pictures() -> None:
    drawn = draw(64, seed=3, identities=64, size=8)
    assert drawn.looks.shape == (64, len(LOOKS))
    assert drawn.looks.dtype == np.float32
    assert drawn.looks.min() >= 0.0
    assert drawn.looks.max() <= 1.0
    often = [name for name in LOOKS if "before the face" not in name and name != "freckles"]
    assert all(np.ptp(drawn.looks[:, LOOKS.index(name)]) > 0.15 for name in often)


def test_no_look_is_an_answer() -> None:
    assert not set(ATTRIBUTES) & set(LOOKS)
    drawn = draw(600, seed=4, identities=600, size=8)
    for name in ATTRIBUTES:
        answers = drawn.labels[name]
        for column, look in zip(drawn.looks.T, LOOKS, strict=True):
            agreement = np.corrcoef(column, answers)[0, 1]
            assert not abs(agreement) > 0.7, (name, look)


@pytest.mark.parametrize("name", ["glasses", "teeth"])
def test_all_looks_together_do_not_tell_glasses_or_teeth(name: str) -> None:
    drawn = draw(1200, seed=5, identities=1200, size=8)
    rows = np.c_[drawn.looks, np.ones(1200)]
    answers = drawn.labels[name]
    weights = np.linalg.lstsq(rows[:800], 2.0 * answers[:800] - 1.0, rcond=None)[0]
    right = ((rows[800:] @ weights > 0) == answers[800:]).mean()
    common = max(answers[800:].mean(), 1 - answers[800:].mean())
    assert right < common + 0.05
