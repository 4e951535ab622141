"""Drawn faces: exact labels, people who stay themselves, and no label that one pixel gives away."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedstrata.drawn_faces import ATTRIBUTES, CLASSES, MARGINALS, Camera, DrawnFaces, draw
from fedstrata.drawn_faces.camera import BACKDROPS
from fedstrata.drawn_faces.people import evenly_spread, make_people

PER_PERSON = ("gender", "age")
PER_PICTURE = ("glasses", "pose", "teeth")


@pytest.fixture(scope="module")
def drawn() -> DrawnFaces:
    return draw(1500, seed=5, identities=300)


def balanced_accuracy(says_positive, label):
    """Mean of the hit rates of both classes; ``says_positive`` may have more columns."""
    return (says_positive[label == 1].mean(0) + 1.0 - says_positive[label == 0].mean(0)) / 2.0


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


@pytest.mark.parametrize("attribute", PER_PERSON)
def test_any_range_of_people_has_the_published_share_to_within_one(attribute):
    share = MARGINALS[attribute]
    for first in range(0, 3000, 37):
        for count in (1, 5, 40, 333):
            chosen = evenly_spread(np.arange(first, first + count), share)
            assert abs(chosen.sum() - count * share) < 1.0


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


def test_a_number_is_the_same_person_in_any_company():
    alone = make_people(np.array([7]), 0.5, 0.5)
    among = make_people(np.arange(20), 0.5, 0.5).take(np.array([7]))
    for field in dataclasses.fields(alone):
        assert np.array_equal(getattr(alone, field.name), getattr(among, field.name)), field.name


def test_different_numbers_are_different_people():
    people = make_people(np.arange(200), MARGINALS["gender"], MARGINALS["age"])
    faces = np.stack([people.width, people.chin, people.eye_distance, people.nose_length], axis=1)
    assert len(np.unique(faces, axis=0)) == 200


def test_disjoint_ranges_draw_different_pictures():
    one, two = (draw(20, seed=1, identities=20, first_identity=first) for first in (0, 20))
    assert set(one.identity).isdisjoint(two.identity)
    differs = np.abs(one.images.astype(int) - two.images).reshape(20, -1).mean(axis=1)
    assert (differs > 5.0).all()


def test_men_and_women_overlap_in_every_single_trait():
    people = make_people(np.arange(2000), MARGINALS["gender"], MARGINALS["age"])
    for field in dataclasses.fields(people):
        trait = getattr(people, field.name)
        if trait.ndim == 1 and field.name != "male":
            accuracy = balanced_accuracy(trait[:, None] > np.unique(trait)[None, ::7], people.male)
            assert max(accuracy.max(), 1.0 - accuracy.min()) < 0.96, field.name


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


def test_a_camera_changes_the_look_and_nothing_else():
    plain, *sites = (
        draw(64, seed=4, identities=8, camera=camera)
        for camera in (None, Camera.random(0), Camera.random(1), Camera.random(2))
    )
    neutral = draw(64, seed=4, identities=8, camera=Camera.neutral())
    assert np.array_equal(plain.images, neutral.images)
    for site in sites:
        assert np.array_equal(site.identity, plain.identity)
        assert all(np.array_equal(site.labels[a], plain.labels[a]) for a in ATTRIBUTES)
    looks = [each.images.mean(axis=(0, 1, 2)) for each in (plain, *sites)]
    for i, look in enumerate(looks):
        assert all(np.abs(look - other).max() > 4.0 for other in looks[:i])


def test_each_backdrop_is_seen_and_any_mixes_them():
    of = {
        backdrop: draw(24, seed=1, identities=4, camera=Camera(backdrop=backdrop)).images
        for backdrop in BACKDROPS
    }
    named = np.stack([of[backdrop] for backdrop in BACKDROPS if backdrop != "any"])
    like = (named == of["any"]).all(axis=(2, 3, 4))
    assert (like.sum(axis=0) == 1).all()
    assert like.any(axis=1).all()


def test_cameras_are_values():
    assert Camera.random(5) == Camera.random(5)
    assert Camera.random(5) != Camera.random(6)
    with pytest.raises(ValueError, match="'brick' is none of plain"):
        Camera(backdrop="brick")
