"""Stock Flower gets the same examples as ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.flower.site_data import (
    CLASSES,
    FEATURES,
    WINDOWS,
    sites_data,
    write_measurements,
    write_site_data,
)
from server_app.compose import compose

FACES = ["data.size=16", "data.train=3", "data.validation=1", "data.test=2", "data.tasks=[gender]"]


def test_stock_flower_gets_the_pictures_that_ours_draws(tmp_path: Path) -> None:
    config = compose("faces_paper", FACES)
    write_site_data(config, 2, None, tmp_path)
    for index, data in enumerate(sites_data(config, 2, None)):
        with np.load(tmp_path / f"{index}.npz", allow_pickle=False) as arrays:
            assert (len(arrays["train_y"]), len(arrays["test_y"])) == (3, 2)
            assert np.array_equal(arrays["train_x"], data.train.inputs.values)  # type: ignore[attr-defined]
            assert np.array_equal(arrays["test_y"], data.test.labels)


def test_sites_are_different_and_the_same_again() -> None:
    config = compose("faces_paper", FACES)
    one, two = sites_data(config, 2, None)
    assert [one.site, two.site] == ["site-00", "site-01"]
    assert one.train.inputs.digest() != two.train.inputs.digest()
    assert one.train.inputs.digest() == sites_data(config, 2, None)[0].train.inputs.digest()


def test_measurements_have_the_form_of_uci_har(tmp_path: Path) -> None:
    write_measurements(tmp_path / "har.npz", 3)
    (first, second, third) = sites_data(compose("har", []), 3, tmp_path / "har.npz")
    assert first.input_shape == (FEATURES,)
    assert len(first.classes) == CLASSES
    assert len(first.train) + len(first.validation) + len(first.test) <= WINDOWS
    assert len({data.task for data in (first, second, third)}) == 3
