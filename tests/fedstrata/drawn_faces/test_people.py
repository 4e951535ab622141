"""A person is a number: always the same face, and no trait gives the gender away."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedstrata.drawn_faces import MARGINALS
from fedstrata.drawn_faces.people import evenly_spread, make_people
from tests.fedstrata.drawn_faces.scores import balanced_accuracy


@pytest.mark.parametrize("attribute", ["gender", "age"])
def test_any_range_of_people_has_the_published_share_to_within_one(attribute):
    share = MARGINALS[attribute]
    for first in range(0, 3000, 37):
        for count in (1, 5, 40, 333):
            chosen = evenly_spread(np.arange(first, first + count), share)
            assert abs(chosen.sum() - count * share) < 1.0


def test_a_number_is_the_same_person_in_any_company():
    alone = make_people(np.array([7]), 0.5, 0.5)
    among = make_people(np.arange(20), 0.5, 0.5).take(np.array([7]))
    for field in dataclasses.fields(alone):
        assert np.array_equal(getattr(alone, field.name), getattr(among, field.name)), field.name


def test_different_numbers_are_different_people():
    people = make_people(np.arange(200), MARGINALS["gender"], MARGINALS["age"])
    faces = np.stack([people.width, people.chin, people.eye_distance, people.nose_length], axis=1)
    assert len(np.unique(faces, axis=0)) == 200


def test_men_and_women_overlap_in_every_single_trait():
    people = make_people(np.arange(2000), MARGINALS["gender"], MARGINALS["age"])
    for field in dataclasses.fields(people):
        trait = getattr(people, field.name)
        if trait.ndim == 1 and field.name != "male":
            accuracy = balanced_accuracy(trait[:, None] > np.unique(trait)[None, ::7], people.male)
            assert max(accuracy.max(), 1.0 - accuracy.min()) < 0.96, field.name
