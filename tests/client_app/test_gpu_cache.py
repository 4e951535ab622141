"""Examples in a device's memory: the same numbers, within bounds, and freed when asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client_app import gpu_cache
from client_app.data.tokens import TokenInputs
from client_app.feature_cache import FeatureCache, Features, cached
from client_app.gpu_cache import GpuCache, OnDevice, room_on
from models.training.data import ArrayInputs, Inputs, Split

CPU = torch.device("cpu")
ROWS = 700  # more than one chunk


def split_of(inputs: Inputs) -> Split:
    return Split(inputs, np.arange(len(inputs)) % 2)


def numbers(seed: int, rows: int = ROWS) -> Split:
    values = np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)
    return split_of(ArrayInputs(values, (0.1,), (1.7,)))


def pictures() -> Split:
    values = np.random.default_rng(1).integers(0, 256, (ROWS, 6, 6, 3), np.uint8)
    return split_of(ArrayInputs(values, (0.5, 0.4, 0.3), (0.25,)))


def texts() -> Split:
    return split_of(TokenInputs(np.random.default_rng(2).integers(0, 90, (ROWS, 8), np.int32)))


def features(folder: Path, dtype: str) -> Split:
    return cached(
        nn.Identity(),
        "prefix",
        numbers(3),
        FeatureCache(folder, 10**9, dtype),
        batch_size=64,
        device=CPU,
        autocast=False,
    )


@pytest.mark.parametrize("kind", ["numbers", "pictures", "texts", "float16", "float32"])
def test_it_gives_what_the_inputs_give(kind: str, tmp_path: Path) -> None:
    made = {"numbers": lambda: numbers(0), "pictures": pictures, "texts": texts}
    split = made[kind]() if kind in made else features(tmp_path, kind)
    found = GpuCache().on_device(split, CPU, 10**9)
    assert isinstance(found.inputs, OnDevice)
    assert found.labels is split.labels
    assert found.inputs.digest() == split.inputs.digest()
    for chosen in (np.arange(ROWS), np.array([699, 3, 3, 256]), np.array([0])):
        given, expected = found.inputs.batch(chosen), split.inputs.batch(chosen)
        assert given.dtype == expected.dtype
        assert torch.equal(given, expected)


def test_features_take_as_many_bytes_as_in_their_file(tmp_path: Path) -> None:
    split = features(tmp_path, "float16")
    assert isinstance(split.inputs, Features)
    cache = GpuCache()
    cache.on_device(split, CPU, 10**9)
    assert cache.taken(CPU) == split.inputs.values.nbytes == ROWS * 5 * 2


def test_a_batch_is_a_copy_that_may_be_overwritten() -> None:
    found = GpuCache().on_device(numbers(0), CPU, 10**9).inputs
    before = found.batch(np.arange(ROWS))
    found.batch(np.arange(ROWS)).zero_()
    assert torch.equal(found.batch(np.arange(ROWS)), before)


def test_a_data_set_is_moved_once() -> None:
    cache = GpuCache()
    first = cache.on_device(numbers(0), CPU, 10**9)
    again = cache.on_device(numbers(0), CPU, 10**9)
    assert first.inputs is again.inputs
    assert cache.taken(CPU) == ROWS * 5 * 4


def test_data_that_do_not_fit_stay_where_they_are_and_nothing_makes_room() -> None:
    cache, one, other = GpuCache(), numbers(0), numbers(1)
    most = ROWS * 5 * 4 + 1
    kept = cache.on_device(one, CPU, most)
    assert cache.on_device(other, CPU, most) is other
    assert cache.on_device(one, CPU, most).inputs is kept.inputs
    assert GpuCache().on_device(one, CPU, most - 2) is one


def test_data_that_were_not_used_for_an_hour_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(gpu_cache.time, "monotonic", lambda: now)
    cache, size = GpuCache(), ROWS * 5 * 4
    oldest, older, used = (cache.on_device(numbers(seed), CPU, 3 * size) for seed in range(3))
    now = gpu_cache.IN_USE - 1
    assert cache.on_device(numbers(2), CPU, 3 * size).inputs is used.inputs
    now = gpu_cache.IN_USE + 1
    assert isinstance(cache.on_device(numbers(3), CPU, 3 * size).inputs, OnDevice)
    assert cache.taken(CPU) == 3 * size
    assert cache.on_device(numbers(1), CPU, 3 * size).inputs is older.inputs
    assert cache.on_device(numbers(2), CPU, 3 * size).inputs is used.inputs
    again = numbers(0)
    assert cache.on_device(again, CPU, 3 * size) is again
    assert len(oldest.inputs) == ROWS  # whoever has it may go on


def test_a_cleared_cache_takes_nothing() -> None:
    cache = GpuCache()
    cache.on_device(numbers(0), CPU, 10**9)
    cache.clear()
    assert cache.taken(CPU) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_gives_what_the_inputs_give() -> None:
    device, cache, split = torch.device("cuda"), GpuCache(), pictures()
    found = cache.on_device(split, device, room_on(device, cache)).inputs
    given = found.batch(np.arange(ROWS))
    assert given.is_cuda
    assert torch.equal(given.cpu(), split.inputs.batch(np.arange(ROWS)))
