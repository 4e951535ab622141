"""What a site computes with is what was asked for, and it is reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client_app import numerics
from client_app.feature_cache import FeatureCache, cached
from client_app.node_config import NodeSettings, read_node_settings
from client_app.numerics import numerics_of, use_threads
from fedstrata.protocol.numerics import Numerics
from models.training.data import ArrayInputs, Split
from server_app.compose import compose

TRAIN = compose("faces", []).train


@pytest.fixture(autouse=True)
def process_of_three_threads() -> Iterator[None]:
    torch.set_num_threads(3)  # tests/conftest.py puts it back
    numerics._threads_of_the_process.cache_clear()
    yield
    numerics._threads_of_the_process.cache_clear()


def node(**more: int) -> NodeSettings:
    return read_node_settings({"site": "clinic", **more}, {})


@pytest.mark.parametrize(
    ("of_site", "of_run", "expected"),
    [(None, None, 3), (None, 2, 2), (2, None, 2), (4, 2, 2), (2, 4, 2)],
)
def test_a_run_has_its_threads_and_never_more_than_the_site_allows(
    of_site: int | None, of_run: int | None, expected: int
) -> None:
    here = node() if of_site is None else node(threads=of_site)
    use_threads(here, replace(TRAIN, threads=of_run))
    assert torch.get_num_threads() == expected


def test_the_threads_of_one_run_do_not_stay_for_the_next() -> None:
    use_threads(node(), replace(TRAIN, threads=1))
    assert torch.get_num_threads() == 1
    use_threads(node(), TRAIN)
    assert torch.get_num_threads() == 3


def test_a_site_says_its_threads_and_which_splits_found_no_room(tmp_path: Path) -> None:
    def features(name: str, most: int) -> Split:
        values = np.ones((4, 2), dtype=np.float32)
        return cached(
            nn.Identity(),
            name,
            Split(ArrayInputs(values), np.zeros(4, dtype=np.int64)),
            FeatureCache(tmp_path, most, "float32"),
            batch_size=4,
            device=torch.device("cpu"),
            autocast=False,
        )

    splits = [features("one", 10**6), features("two", 0)]
    assert numerics_of(splits, 1) == Numerics(3, uncached_splits=1)
    assert numerics_of([], 4, 7) == Numerics(3, micro_batches=4, batched_sites=7)
