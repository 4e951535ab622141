"""What is asked of drawn faces besides the five questions."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data.face_tasks import ALL, YEARS, labels_of_task, outputs_of
from client_app.data.registry import load
from fedstrata.drawn_faces import ATTRIBUTES, draw
from fedstrata.support.errors import UserError

SMALL = {"size": 16, "train": 20, "validation": 5, "test": 8, "identities": 12}


def test_all_five_at_once_are_the_five_questions() -> None:
    drawn = draw(30, seed=1, identities=30, size=8)
    answers = labels_of_task(ALL, drawn)
    assert answers.dtype == np.float32
    assert outputs_of(ALL) == ("male", "young", "glasses", "turned", "visible")
    for column, name in enumerate(ATTRIBUTES):
        assert np.array_equal(answers[:, column], drawn.labels[name])


def test_the_old_are_older_than_the_young_and_a_person_has_one_age() -> None:
    drawn = draw(120, seed=1, identities=60, size=8)
    years = labels_of_task(YEARS, drawn)[:, 0]
    old = drawn.labels["age"] == 0
    assert years[old].min() > 50 > 40 > years[~old].max()
    assert years[~old].min() >= 18
    for person in np.unique(drawn.identity):
        assert len(set(years[drawn.identity == person])) == 1
    again = labels_of_task(YEARS, draw(120, seed=2, identities=60, size=8))[:, 0]
    assert set(again) == set(years)  # other pictures of the same people


def test_the_kinds_stand_in_the_sites_data(options, info) -> None:
    chosen = options("faces", **SMALL, tasks=["gender", "age_years", "all"])
    sites = [load("faces", chosen, info(index=i, count=3), seed=1) for i in range(3)]
    assert [site.kind.name for site in sites] == ["classes", "number", "labels"]
    assert [site.train.labels.shape for site in sites] == [(20,), (20, 1), (20, 5)]
    assert (sites[1].kind.mean, sites[1].kind.unit) == ((30.0,), "years")
    plain = load("faces", options("faces", **SMALL), info(index=1, count=3), seed=1)
    assert plain.train.inputs.digest() == sites[1].train.inputs.digest()  # the same pictures


def test_what_is_not_possible_is_said(options, info) -> None:
    flat = options(
        "faces", **SMALL, tasks=[YEARS], age_years={"mean": 30, "std": 0, "unit": "years"}
    )
    with pytest.raises(UserError, match=r"data\.age_years\.std: 0"):
        load("faces", flat, info(index=0, count=1), seed=1)
    few = options("faces", **SMALL, tasks=[ALL], labels_per_class=3)
    with pytest.raises(UserError, match=r"task 'all' has no classes .*labels_per_class=null"):
        load("faces", few, info(index=0, count=1), seed=1)
