"""Data sets are found by name, and options that all of them have are applied."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data.registry import LOADERS, load
from fedstrata.support.errors import UserError


def test_an_unknown_name_is_reported_with_what_exists(info) -> None:
    for name in ("face", "os", "client_app.data.faces", ""):
        with pytest.raises(UserError, match="'faces'"):
            load(name, {}, info(), seed=1)


@pytest.mark.parametrize("name", LOADERS)
def test_every_data_set_has_a_loader_and_a_configuration(name, options) -> None:
    module = LOADERS[name].__module__
    assert module.removesuffix(".loader") == f"client_app.data.{name}"
    assert next(iter(options(name))) == "name"
    assert options(name)["name"] == name


@pytest.mark.parametrize("name", LOADERS)
def test_every_option_has_to_be_given(name, options, info) -> None:
    given = options(name)
    for option in given:
        if option != "name":
            short = {key: value for key, value in given.items() if key != option}
            with pytest.raises(UserError, match=rf"data\.{option}"):
                load(name, short, info(index=0, count=1), seed=1)
    with pytest.raises(UserError, match="no option 'colour'"):
        load(name, {**given, "colour": 1}, info(index=0, count=1), seed=1)


@pytest.mark.parametrize("name", [name for name in LOADERS if name != "faces"])
def test_a_data_root_is_needed_and_absolute(name, options, info, tmp_path) -> None:
    with pytest.raises(UserError, match="data-root"):
        load(name, options(name), info(index=0, count=1), seed=1)
    relative = type(tmp_path)("pictures")
    with pytest.raises(UserError, match="must be an absolute path: the app does not run in"):
        load(name, options(name), info(index=0, count=1, root=relative), seed=1)
    with pytest.raises(UserError, match="does not exist"):
        load(name, options(name), info(index=0, count=1, root=tmp_path / "none"), seed=1)


FEW = {"size": 16, "train": 40, "validation": 9, "test": 11, "identities": 9}


def test_labels_per_class_changes_only_training(options, info) -> None:
    def loaded(seed: int = 1, index: int = 0, **changes):
        chosen = options("faces", **FEW, **changes)
        return load("faces", chosen, info(index=index, count=2), seed)

    whole, few = loaded(), loaded(labels_per_class=3)
    assert np.bincount(few.train.labels).tolist() == [3, 3]
    for name in ("validation", "test"):
        one, other = getattr(whole, name), getattr(few, name)
        assert one.inputs.digest() == other.inputs.digest()
        assert one.labels.tolist() == other.labels.tolist()
    assert few.train.inputs.digest() != whole.train.inputs.digest()
    rows = few.train.inputs.rows
    assert few.train.inputs.batch(np.arange(6)).equal(whole.train.inputs.batch(rows))
    assert few.train.labels.tolist() == whole.train.labels[rows].tolist()


def test_labels_per_class_depends_on_the_site_s_name(options, info) -> None:
    def rows(seed: int, site: str) -> list[int]:
        chosen = options("faces", **FEW, labels_per_class=3)
        here = info(index=0, count=2, site=site)
        return load("faces", chosen, here, seed).train.inputs.rows.tolist()

    # The pictures of one index and seed are the same under either name: only the draw differs.
    assert rows(1, "north") == rows(1, "north")
    assert rows(1, "north") != rows(1, "south")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many", [2], {"a": 1}, "${oc.env:HOME}"])
@pytest.mark.parametrize("name", LOADERS)
def test_labels_per_class_is_a_whole_number_or_null(name, value, options, info) -> None:
    chosen = options(name, labels_per_class=value)
    with pytest.raises(UserError, match=r"^data\.labels_per_class.*: "):
        load(name, chosen, info(index=0, count=1), seed=1)


def test_the_data_s_own_seed_takes_the_place_of_the_run_s(options, info) -> None:
    def drawn(run: int, own: int | None) -> tuple[str, list[int]]:
        chosen = options("faces", **FEW, labels_per_class=3, seed=own)
        train = load("faces", chosen, info(index=0, count=2), run).train
        return train.inputs.digest(), train.labels.tolist()

    assert drawn(1, 7) == drawn(2, 7) == drawn(7, None)
    assert drawn(1, None) != drawn(2, None)
    assert drawn(1, 0) == drawn(0, None) != drawn(1, None)


def test_the_data_s_own_seed_is_a_whole_number(options, info) -> None:
    for value in (-1, 1.5, True, "one"):
        with pytest.raises(UserError, match=r"^data\.seed: "):
            load("faces", options("faces", **FEW, seed=value), info(index=0, count=2), 1)
