"""Drawn faces: disjoint people, one task a site, the same pictures for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data import load
from client_app.data.faces import FacesOptions, people
from models.errors import UserError
from models.options import read_options

SMALL = {"size": 32, "train": 6, "validation": 3, "test": 4, "identities": 9}


def test_a_site_holds_what_its_options_say(options, seat) -> None:
    holding = load("faces", options("faces", **SMALL), seat(index=3, count=10), seed=1)
    data = holding.data
    assert holding.site == "site-03"
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 3, 4)
    assert data.input_shape == (3, 32, 32)
    batch = data.train.inputs.batch(np.arange(6))
    assert batch.shape == (6, 3, 32, 32)
    assert batch.min() >= -2  # uint8 in [0, 1], then (x - 0.5) / 0.25
    assert batch.max() <= 2
    assert set(data.train.labels) <= set(range(len(data.classes)))


def test_ten_sites_and_five_tasks_make_two_sites_a_task(options, seat) -> None:
    chosen = options("faces", **{**SMALL, "train": 1, "validation": 1, "test": 1})
    tasks = [
        load("faces", chosen, seat(index=index, count=10), seed=1).data.task for index in range(10)
    ]
    assert tasks[:5] == chosen["tasks"]
    assert tasks[5:] == chosen["tasks"]


def test_no_person_is_in_two_places(options) -> None:
    settings = read_options(FacesOptions, options("faces"), "data")
    taken = [range(settings.public.identities)]
    for index in range(10):
        taken += [range(first, first + many) for first, many in people(settings, index).values()]
    everyone = [identity for several in taken for identity in several]
    assert (
        len(everyone) == len(set(everyone)) == settings.public.identities + 10 * settings.identities
    )
    assert min(map(len, taken)) >= 1


def test_the_drawn_people_are_the_split_s_own(options, seat, monkeypatch) -> None:
    import client_app.data.faces as faces

    drawn_people = []
    original = faces.draw

    def spy(*args, **keywords):
        drawn = original(*args, **keywords)
        drawn_people.append(set(drawn.identity.tolist()))
        return drawn

    monkeypatch.setattr(faces, "draw", spy)
    for index in (0, 1):
        load("faces", options("faces", **SMALL), seat(index=index, count=2), seed=1)
    assert len(drawn_people) == 6
    assert not any(a & b for i, a in enumerate(drawn_people) for b in drawn_people[:i])
    assert min(set().union(*drawn_people)) >= options("faces")["public"]["identities"]


def test_the_seed_decides(options, seat) -> None:
    def digest(seed: int, index: int) -> str:
        holding = load("faces", options("faces", **SMALL), seat(index=index, count=10), seed)
        return holding.data.train.inputs.digest()

    assert digest(1, 0) == digest(1, 0)
    assert len({digest(1, 0), digest(2, 0), digest(1, 5)}) == 3


def test_the_node_config_names_site_and_task(options, seat) -> None:
    placed = seat(index=0, count=3, site="north", task="pose")
    holding = load("faces", options("faces", **SMALL), placed, seed=1)
    assert (holding.site, holding.data.task) == ("north", "pose")


def test_mistakes_are_told(options, seat) -> None:
    here = seat(index=0, count=2)
    for changes, told in [
        ({"tasks": ["smile"]}, "no attribute 'smile'"),
        ({"tasks": []}, "at least one"),
        ({"identities": 2}, "at least 3"),
        ({"train": 0}, "data.train"),
    ]:
        with pytest.raises(UserError, match=told):
            load("faces", options("faces", **{**SMALL, **changes}), here, seed=1)
    with pytest.raises(UserError, match="partition-id=0 num-partitions=10"):
        load("faces", options("faces", **SMALL), seat(), seed=1)
    with pytest.raises(UserError, match=r"not among data\.tasks"):
        load("faces", options("faces", **SMALL), seat(index=0, count=1, task="smile"), seed=1)


def test_every_site_and_split_has_its_own_seed_and_every_site_its_camera(
    options, seat, monkeypatch
) -> None:
    import client_app.data.faces as faces

    calls = []
    original = faces.draw
    monkeypatch.setattr(faces, "draw", lambda n, **how: calls.append(how) or original(n, **how))
    for index in (0, 1):
        load("faces", options("faces", **SMALL), seat(index=index, count=2), seed=1)
    assert len({how["seed"] for how in calls}) == 6
    cameras = [how["camera"] for how in calls]
    assert cameras[0] == cameras[1] == cameras[2]
    assert cameras[0] != cameras[3]
    calls.clear()
    load("faces", options("faces", **SMALL, cameras=False), seat(index=1, count=2), seed=1)
    assert all(how["camera"] == faces.Camera.neutral() for how in calls)
