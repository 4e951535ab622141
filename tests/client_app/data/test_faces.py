"""Drawn faces: disjoint people, one task a site, the same pictures for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data.faces import FacesOptions, PublicFaces, Years, people, pictures_to_train
from client_app.data.registry import COMMON, load
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options

SMALL = {"size": 16, "train": 6, "validation": 3, "test": 4, "identities": 9}


def read(options, **changes: object) -> FacesOptions:
    own = {key: value for key, value in options("faces", **changes).items() if key not in COMMON}
    return read_options(FacesOptions, own, "data")


def test_the_options_give_sizes_and_shape(options, info) -> None:
    data = load("faces", options("faces", **SMALL), info(index=3, count=10), seed=1)
    assert data.site == "site-03"
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 3, 4)
    assert data.input_shape == (3, 16, 16)
    batch = data.train.inputs.batch(np.arange(6))
    assert batch.shape == (6, 3, 16, 16)
    assert batch.min() >= -2  # uint8 in [0, 1], then (x - 0.5) / 0.25
    assert batch.max() <= 2
    assert set(data.train.labels) <= set(range(len(data.classes)))


def test_ten_sites_and_five_tasks_make_two_sites_a_task(options, info) -> None:
    chosen = options("faces", **{**SMALL, "train": 1, "validation": 1, "test": 1})
    tasks = [load("faces", chosen, info(index=index, count=10), seed=1).task for index in range(10)]
    assert tasks[:5] == chosen["tasks"]
    assert tasks[5:] == chosen["tasks"]


def test_no_person_is_in_two_splits_or_sites(options) -> None:
    settings = read(options)
    taken = [range(settings.public.identities)]
    for index in range(10):
        taken += [range(first, first + many) for first, many in people(settings, index).values()]
    everyone = [identity for several in taken for identity in several]
    assert (
        len(everyone) == len(set(everyone)) == settings.public.identities + 10 * settings.identities
    )
    assert min(map(len, taken)) >= 1


def test_each_split_draws_its_own_people(options, info, monkeypatch) -> None:
    import client_app.data.faces as faces

    drawn_people = []
    original = faces.draw

    def spy(*args, **keywords):
        drawn = original(*args, **keywords)
        drawn_people.append(set(drawn.identity.tolist()))
        return drawn

    monkeypatch.setattr(faces, "draw", spy)
    for index in (0, 1):
        load("faces", options("faces", **SMALL), info(index=index, count=2), seed=1)
    assert len(drawn_people) == 6
    assert not any(a & b for i, a in enumerate(drawn_people) for b in drawn_people[:i])
    assert min(set().union(*drawn_people)) >= options("faces")["public"]["identities"]


def test_the_seed_decides(options, info) -> None:
    def digest(seed: int, index: int) -> str:
        data = load("faces", options("faces", **SMALL), info(index=index, count=10), seed)
        return data.train.inputs.digest()

    assert digest(1, 0) == digest(1, 0)
    assert len({digest(1, 0), digest(2, 0), digest(1, 5)}) == 3


def test_the_node_config_names_site_and_task(options, info) -> None:
    here = info(index=0, count=3, site="north", task="pose")
    data = load("faces", options("faces", **SMALL), here, seed=1)
    assert (data.site, data.task) == ("north", "pose")


def test_wrong_options_are_reported(options, info) -> None:
    here = info(index=0, count=2)
    for changes, message in [
        ({"tasks": ["smile"]}, "no attribute 'smile'"),
        ({"tasks": []}, "at least one"),
        ({"identities": 2}, "at least 3"),
        ({"train": 0}, "data.train"),
    ]:
        with pytest.raises(UserError, match=message):
            load("faces", options("faces", **{**SMALL, **changes}), here, seed=1)
    with pytest.raises(UserError, match="partition-id=0 num-partitions=10"):
        load("faces", options("faces", **SMALL), info(), seed=1)
    with pytest.raises(UserError, match=r"not among data\.tasks"):
        load("faces", options("faces", **SMALL), info(index=0, count=1, task="smile"), seed=1)


def test_every_site_and_split_has_its_own_seed_and_every_site_its_camera(
    options, info, monkeypatch
) -> None:
    import client_app.data.faces as faces

    calls = []
    original = faces.draw
    monkeypatch.setattr(faces, "draw", lambda n, **how: calls.append(how) or original(n, **how))
    for index in (0, 1):
        load("faces", options("faces", **SMALL), info(index=index, count=2), seed=1)
    assert len({how["seed"] for how in calls}) == 6
    cameras = [how["camera"] for how in calls]
    assert cameras[0] == cameras[1] == cameras[2]
    assert cameras[0] != cameras[3]
    calls.clear()
    load("faces", options("faces", **SMALL, cameras=False), info(index=1, count=2), seed=1)
    assert all(how["camera"] == faces.Camera.neutral() for how in calls)


def test_pictures_are_split_evenly_among_sites(options) -> None:
    # 13,792 pictures over 100 sites: 138 at the first 92, 137 at the other 8.
    chosen = {"pictures": 13792, "validation": 20, "test": 30}
    settings = read(options, **chosen)
    assert [pictures_to_train(settings, index, 100) for index in range(100)] == [88] * 92 + [87] * 8


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2000))
def test_pictures_of_all_sites_add_up_and_differ_by_one(count, validation, test, spare) -> None:
    total = count * (validation + test + 1) + spare
    settings = FacesOptions(
        64, ("age",), total, 5, validation, test, 9, True, Years(30, 15, "years"), PublicFaces(1, 1)
    )
    trained = [pictures_to_train(settings, index, count) for index in range(count)]
    assert sum(trained) + count * (validation + test) == total
    assert max(trained) - min(trained) <= 1
    assert trained == sorted(trained, reverse=True)
    assert min(trained) >= 1


def test_a_site_draws_its_share_of_the_pictures(options, info) -> None:
    sizes = {**SMALL, "train": 1, "pictures": 25}
    for index, train in ((0, 2), (1, 1), (2, 1)):
        data = load("faces", options("faces", **sizes), info(index=index, count=3), seed=1)
        assert (len(data.train), len(data.validation), len(data.test)) == (train, 3, 4)
    # with null the pictures are the same to the bit
    plain = load("faces", options("faces", **SMALL), info(index=0, count=3), seed=1)
    same = {**SMALL, "train": 99, "pictures": 39}
    shared = load("faces", options("faces", **same), info(index=0, count=3), seed=1)
    assert shared.train.inputs.digest() == plain.train.inputs.digest()
    assert shared.test.inputs.digest() == plain.test.inputs.digest()


def test_pictures_that_leave_nothing_to_train_on_are_reported(options, info) -> None:
    for pictures, message in [
        (23, r"23 over 3 sites are 7 at site 2.*data\.pictures=24 or more"),
        (0, r"data\.pictures: 0"),
        (-5, r"data\.pictures: -5"),
        ("some", r"data\.pictures"),
    ]:
        chosen = options("faces", **SMALL, pictures=pictures)
        with pytest.raises(UserError, match=message):
            load("faces", chosen, info(index=2, count=3), seed=1)
