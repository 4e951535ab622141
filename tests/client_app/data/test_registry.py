"""Data sets are looked up by name, and a seat is checked."""

from __future__ import annotations

import importlib

import pytest

from client_app.data import load
from client_app.data.registry import LOADERS
from models.errors import UserError


def test_an_unknown_name_is_told_with_what_exists(seat) -> None:
    for name in ("face", "os", "client_app.data.faces", ""):
        with pytest.raises(UserError, match="'faces'"):
            load(name, {}, seat(), seed=1)


@pytest.mark.parametrize("name", LOADERS)
def test_every_data_set_has_a_loader_and_a_configuration(name, options) -> None:
    assert callable(importlib.import_module(LOADERS[name]).load)
    assert next(iter(options(name))) == "name"
    assert options(name)["name"] == name


@pytest.mark.parametrize("name", LOADERS)
def test_every_option_has_to_be_given(name, options, seat) -> None:
    given = options(name)
    for option in given:
        if option != "name":
            short = {key: value for key, value in given.items() if key != option}
            with pytest.raises(UserError, match=rf"data\.{option}"):
                load(name, short, seat(index=0, count=1), seed=1)
    with pytest.raises(UserError, match="no option 'colour'"):
        load(name, {**given, "colour": 1}, seat(index=0, count=1), seed=1)


@pytest.mark.parametrize("name", [name for name in LOADERS if name != "faces"])
def test_a_data_root_is_needed_and_absolute(name, options, seat, tmp_path) -> None:
    with pytest.raises(UserError, match="data-root"):
        load(name, options(name), seat(index=0, count=1), seed=1)
    relative = type(tmp_path)("pictures")
    with pytest.raises(UserError, match="must be an absolute path: the app does not run in"):
        load(name, options(name), seat(index=0, count=1, root=relative), seed=1)
    with pytest.raises(UserError, match="does not exist"):
        load(name, options(name), seat(index=0, count=1, root=tmp_path / "none"), seed=1)


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (-1, None)])
def test_a_partition_outside_the_count_is_refused(index, count, seat) -> None:
    with pytest.raises(UserError, match="partition-id"):
        seat(index=index, count=count)
