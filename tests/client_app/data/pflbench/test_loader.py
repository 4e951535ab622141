"""Sites share a published data set by the data's seed, whatever the run's seed is."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_app.data.pflbench.loader import DATASETS, ELSEWHERE
from client_app.data.registry import load
from fedstrata.support.errors import UserError
from tests.helpers.published_files import (
    ag_news_files,
    cifar_files,
    mnist_files,
    pamap2_file,
    tiny_imagenet_files,
)
from tests.loopback import LoopbackGrid, simulate


@pytest.fixture
def site(options, info, tmp_path):
    """Return a function that loads one of some sites."""
    mnist_files(tmp_path / "mnist")

    def make(index: int = 0, count: int = 4, seed: int = 1, root: Path | None = None, **more: Any):
        split = {"smallest": 5, **more.pop("site_split", {})}
        chosen = options("pflbench", **more)
        chosen["site_split"] |= split
        here = info(index=index, count=count, root=root or tmp_path / "mnist")
        return load("pflbench", chosen, here, seed)

    return make


def rows(data) -> list[str]:
    return [part.inputs.digest() for part in (data.train, data.validation, data.test)]


def test_the_shares_follow_the_seed_of_the_data_alone(options, site, info, tmp_path) -> None:
    def other(seed: int | None, run: int):
        chosen = options("pflbench", seed=seed)
        chosen["site_split"]["smallest"] = 5
        return load("pflbench", chosen, info(index=0, count=4, root=tmp_path / "mnist"), run)

    assert rows(site(seed=1)) == rows(site(seed=2)) == rows(other(1, 9)) == rows(other(None, 1))
    assert rows(other(2, 1)) != rows(site())


def test_together_the_sites_have_every_picture_once(site) -> None:
    for scheme in ("dirichlet_balanced", "extended_dirichlet", "dirichlet", "iid"):
        sites = [
            site(index, site_split={"scheme": scheme, "classes_per_site": 5}) for index in range(4)
        ]
        pictures = [
            part.inputs.values[row].tobytes()
            for data in sites
            for part in (data.train, data.validation, data.test)
            for row in range(len(part))
        ]
        assert len(pictures) == len(set(pictures)) == 240, scheme


def test_each_site_has_a_few_classes_where_the_scheme_says_so(site) -> None:
    for index in range(10):
        data = site(index, 10, site_split={"scheme": "pathological", "classes_per_site": 2})
        found = np.unique(np.concatenate([data.train.labels, data.test.labels]))
        assert len(found) == 2


def test_a_quarter_of_a_site_s_share_is_for_testing(site) -> None:
    data = site(0, 1)
    assert len(data.test) == 60
    assert data.task == "mnist"
    assert data.input_shape == (1, 28, 28)
    first = data.train.inputs.batch(np.array([0]))
    assert first.min() >= -1
    assert first.max() <= 1


def test_the_files_for_testing_can_stay_so(site, tmp_path) -> None:
    sites = [site(index, pool_files=False, site_split={"scheme": "iid"}) for index in range(4)]
    assert sum(len(data.test) for data in sites) == 40


def test_every_data_set_loads(site, tmp_path) -> None:
    roots = {
        "mnist": tmp_path / "mnist",
        "fashion_mnist": tmp_path / "mnist",
        "cifar10": cifar_files(tmp_path / "c10", fine=False),
        "cifar100": cifar_files(tmp_path / "c100", fine=True),
        "tiny_imagenet": tiny_imagenet_files(tmp_path / "tiny"),
        "ag_news": ag_news_files(tmp_path / "news"),
    }
    assert set(roots) == set(DATASETS)
    shapes = {}
    for name, root in roots.items():
        more = {"validation_fraction": 0.25, "site_split": {"scheme": "iid"}}
        data = site(1, 2, root=root, dataset=name, **more)
        shapes[name] = data.input_shape
        assert data.train.inputs.batch(np.arange(2)).shape == (2, *data.input_shape)
        assert (data.preprocessing is None) == (name == "ag_news")
        places = data.test_places
        assert len(set(zip(places.files, places.rows, strict=True))) == len(data.test)
        assert all(path.is_file() for path in places.files)
    assert shapes["cifar10"] == (3, 32, 32)
    assert shapes["tiny_imagenet"] == (3, 64, 64)
    assert shapes["ag_news"] == (4096,)


def test_copies_are_counted_and_used_by_default(options, info, tmp_path) -> None:
    root = ag_news_files(tmp_path / "news")
    text = (root / "test.csv").read_text()
    (root / "test.csv").write_text(text + text)
    here = info(index=0, count=1, root=root)
    chosen = options("pflbench", dataset="ag_news")
    load("pflbench", chosen, here, 1)
    assert any("20 texts are copies" in note.whole for note in here.findings.notes)
    data = load("pflbench", {**chosen, "duplicates": "drop"}, here, 1)
    assert len(data.train) + len(data.validation) + len(data.test) == 100


@pytest.mark.parametrize("name", [*ELSEWHERE, "HAR", "Digit-5", "DomainNet"])
def test_a_data_set_that_is_read_otherwise_is_pointed_to(site, name) -> None:
    with pytest.raises(UserError, match=r"is read otherwise: write experiment=(har|images)"):
        site(dataset=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "cifar"}, "no data set 'cifar'; there is 'cifar10'"),
        ({"dataset": "cifar10", "download": True}, "only mnist and fashion_mnist are fetched"),
        ({"site_split": {"scheme": "natural"}}, "has no subjects or domains"),
        ({"dataset": "pamap2"}, "each subject of pamap2 is a site; write natural"),
        ({"largest_mb": 0}, "largest_mb"),
        ({"duplicates": "maybe"}, "duplicates"),
        ({"dataset": "tiny_imagenet", "duplicates": "drop"}, "are not compared; write keep"),
        ({"std": 0.0}, "std"),
        ({"test_fraction": 1.0}, "test_fraction"),
    ],
)
def test_a_mistake_is_named(site, changes, said) -> None:
    with pytest.raises(UserError, match=said):
        site(**changes)


def test_a_deployed_site_is_refused_before_any_file_is_opened(
    options, info, tmp_path, monkeypatch
) -> None:
    here = replace(info(site="clinic", root=tmp_path), deployed=True)
    monkeypatch.setattr(builtins, "open", None)
    with pytest.raises(UserError, match="a deployed site has data of its own"):
        load("pflbench", options("pflbench"), here, 1)


def test_each_subject_of_pamap2_is_a_site(site, tmp_path) -> None:
    for number in (101, 102):
        pamap2_file(tmp_path / "Protocol" / f"subject{number}.dat", number)
    chosen = {"dataset": "pamap2", "site_split": {"scheme": "natural"}, "root": tmp_path}
    one, two = site(0, 2, **chosen), site(1, 2, **chosen)
    assert (one.site, two.site) == ("subject-101", "subject-102")
    assert len(one.train) + len(one.validation) + len(one.test) == 24
    assert rows(one) == rows(site(0, 2, seed=5, **chosen)) != rows(two)
    assert site(0, 1, **chosen).source == "subject-101"
    with pytest.raises(UserError, match=r"3 sites but 2 subjects.*num-supernodes=2"):
        site(0, 3, **chosen)


def test_the_experiment_trains_its_network_at_every_site(site, tmp_path) -> None:
    chosen = ["strategy.rounds=1", "strategy.poll=0.01", "baselines.alone=false", "method=fedper"]
    chosen += ["data.site_split.scheme=iid", "train.epochs=null", "train.steps=2"]
    nodes = {100 + index: {"partition-id": index, "num-partitions": 2} for index in range(2)}
    given = {"data-root": str(tmp_path / "mnist"), "output-dir": str(tmp_path / "out")}
    grid = LoopbackGrid(nodes, given)
    results, _ = simulate(tmp_path / "out", "pflbench", chosen, grid=grid)
    assert results["config"]["data"]["seed"] == 1
    common = results["partition"]["mnist"][1]
    assert common["parameters"] == 582_026 - 5_130
    assert len(results["final"]["sites"]) == 2
