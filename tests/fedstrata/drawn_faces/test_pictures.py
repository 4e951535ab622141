"""Drawn faces: exact labels, people who stay themselves, and no label that one pixel gives away."""

from __future__ import annotations

import numpy as np
import pytest

from fedstrata.drawn_faces import ATTRIBUTES, CLASSES, MARGINALS, Camera, DrawnFaces, draw
from fedstrata.drawn_faces.people import evenly_spread
from tests.fedstrata.drawn_faces.scores import balanced_accuracy

PER_PERSON = ("gender", "age")
PER_PICTURE = ("glasses", "pose", "teeth")


@pytest.fixture(scope="module")
def drawn() -> DrawnFaces:
    return draw(1500, seed=5, identities=300)


def test_what_comes_back(drawn):
    assert drawn.images.shape == (1500, 64, 64, 3)
    assert drawn.images.dtype == np.uint8
    assert tuple(drawn.labels) == ATTRIBUTES == tuple(CLASSES) == tuple(MARGINALS)
    assert all(
        label.dtype == np.int64 and label.shape == (1500,) for label in drawn.labels.values()
    )
    assert drawn.identity.dtype == np.int64


@pytest.mark.parametrize("n", [0, 1, 3, 130])
def test_any_number_of_pictures_of_any_size(n):
    drawn = draw(n, seed=0, identities=7, size=48)
    assert drawn.images.shape == (n, 48, 48, 3)


@pytest.mark.parametrize(
    "wrong", [{"n": -1}, {"identities": 0}, {"first_identity": -1}, {"size": 0}]
)
def test_impossible_requests_are_refused(wrong):
    with pytest.raises(ValueError, match="cannot draw"):
        draw(**{"n": 4, "seed": 0, "identities": 2, **wrong})


def test_same_arguments_same_bytes_whatever_the_global_generator_does():
    np.random.seed(1)
    first = draw(140, seed=8, identities=20, camera=Camera.random(3))
    np.random.seed(2)
    before = np.random.get_state()
    second = draw(140, seed=8, identities=20, camera=Camera.random(3))
    after = np.random.get_state()
    assert first.images.tobytes() == second.images.tobytes()
    assert all(np.array_equal(first.labels[a], second.labels[a]) for a in ATTRIBUTES)
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_another_seed_gives_other_pictures_of_the_same_people():
    one, two = (draw(60, seed=seed, identities=10) for seed in (1, 2))
    assert not np.array_equal(one.images, two.images)
    for attribute in PER_PERSON:
        of_one = dict(zip(one.identity, one.labels[attribute], strict=True))
        assert of_one == dict(zip(two.identity, two.labels[attribute], strict=True))


@pytest.mark.parametrize("attribute", PER_PICTURE)
@pytest.mark.parametrize("n", [7, 200])
def test_pictures_have_the_published_share_to_within_rounding(attribute, n):
    label = draw(n, seed=3, identities=5, size=16).labels[attribute]
    assert label.sum() == round(n * MARGINALS[attribute])


def test_labels_come_from_those_ranges(drawn):
    for attribute in PER_PERSON:
        person, first = np.unique(drawn.identity, return_index=True)
        labels = drawn.labels[attribute][first]
        assert np.array_equal(labels == 1, evenly_spread(person, MARGINALS[attribute]))


def test_each_person_gets_an_equal_number_of_pictures_and_one_gender_and_age():
    drawn = draw(103, seed=2, identities=10, first_identity=40)
    assert set(np.unique(drawn.identity, return_counts=True)[1]) == {10, 11}
    assert set(drawn.identity) == set(range(40, 50))
    for attribute in PER_PERSON:
        for person in range(40, 50):
            assert len(set(drawn.labels[attribute][drawn.identity == person])) == 1


def test_disjoint_ranges_draw_different_pictures():
    one, two = (draw(20, seed=1, identities=20, first_identity=first) for first in (0, 20))
    assert set(one.identity).isdisjoint(two.identity)
    differs = np.abs(one.images.astype(int) - two.images).reshape(20, -1).mean(axis=1)
    assert (differs > 5.0).all()


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_no_single_pixel_gives_a_label_away(drawn, attribute):
    pixels, label = drawn.images.reshape(1500, -1), drawn.labels[attribute]
    for threshold in range(20, 250, 20):
        accuracy = balanced_accuracy(pixels > threshold, label)
        assert max(accuracy.max(), 1.0 - accuracy.min()) < 0.75


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_no_overall_colour_gives_a_label_away(drawn, attribute):
    colours, label = drawn.images.mean(axis=(1, 2)), drawn.labels[attribute]
    for threshold in range(20, 250, 5):
        accuracy = balanced_accuracy(colours > threshold, label)
        assert max(accuracy.max(), 1.0 - accuracy.min()) < 0.70


def test_no_pixel_is_constant(drawn):
    assert drawn.images.reshape(1500, -1).std(axis=0).min() > 10.0
