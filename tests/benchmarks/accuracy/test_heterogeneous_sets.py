"""Every set is a configuration in which sites have four networks, and all else alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import heterogeneous_sets as sets
from benchmarks.accuracy.heterogeneous_sets import SMALL_CNNS, HeterogeneousSet
from benchmarks.accuracy.study import Case
from benchmarks.flower.site_data import sites_data

PLAIN = Case("fedproto", ("method=fedproto",))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(1)
    labels = rng.integers(1, 7, 3840)  # in no order: one of four is taken
    np.savez(folder / "har.npz", x=rng.random((3840, 561), np.float32), y=labels, subject=labels)
    (folder / "mnist").mkdir()
    parts = {}
    for side, many in (("train", 3200), ("val", 1600), ("test", 1600)):
        parts[f"{side}_images"] = rng.integers(0, 256, (many, 28, 28), np.uint8)
        parts[f"{side}_labels"] = rng.integers(0, 10, (many, 1))
    np.savez(folder / "mnist" / "site-00.npz", **parts)
    return folder


def made(sources: Path, name: str) -> HeterogeneousSet:
    data, _, scheme = name.partition("-")
    if data == "har":
        return sets.har(sources / "har.npz", sources / "work", scheme)
    make = {"mnist": sets.mnist, "htfe2": sets.htfe2}[data]
    return make(sources / "mnist", sources / "work", scheme)


@pytest.mark.parametrize("name", ["har-pathological", "mnist-dirichlet", "htfe2-dirichlet"])
def test_a_set_is_a_configuration_that_exists(sources: Path, name: str) -> None:
    dataset = made(sources, name)
    assert dataset.name == name
    study = dataset.study("heterogeneous", (1, 2))
    one, two = (study.config(PLAIN, seed) for seed in (1, 2))
    assert one.data == two.data
    assert one.train.clip == 5
    assert one.strategy.rounds == dataset.rounds
    assert len(one.models) == (2 if name.startswith("htfe2") else 4)


def test_the_networks_are_of_four_kinds() -> None:
    config = sets.faces().study("heterogeneous", (1,)).config(PLAIN, 1)
    assert [each["name"] for each in config.models.values()] == list(SMALL_CNNS)


def test_htfllib_has_the_networks_of_one_set(sources: Path) -> None:
    assert made(sources, "htfe2-dirichlet").peer_model == "HtFE-img-2"
    assert made(sources, "mnist-dirichlet").peer_model is None


def test_what_needs_pictures_is_known(sources: Path) -> None:
    assert not made(sources, "har-pathological").pictures
    assert made(sources, "mnist-dirichlet").pictures


def test_the_pictures_beside_htfllib_are_in_color(sources: Path) -> None:
    dataset = made(sources, "htfe2-dirichlet")
    study = dataset.study("heterogeneous", (1,))
    iid = Case("iid", (*PLAIN.overrides, "data.site_split.scheme=iid"))  # too few for Dirichlet
    data = sites_data(study.config(iid, 1), dataset.sites, dataset.root)
    assert data[0].input_shape == (3, 32, 32)


@pytest.mark.parametrize("name", ["har-pathological", "mnist-pathological"])
def test_eight_sites_can_share_the_classes(sources: Path, name: str) -> None:
    dataset = made(sources, name)
    config = dataset.study("heterogeneous", (1,)).config(PLAIN, 1)
    sites = sites_data(config, dataset.sites, dataset.root)
    assert len(sites) == sets.SITES
    seen = [set(np.unique(site.train.labels).tolist()) for site in sites]
    assert set.union(*seen) == set(range(len(sites[0].classes)))
    assert f"{max(map(len, seen))} classes a site" in dataset.title
