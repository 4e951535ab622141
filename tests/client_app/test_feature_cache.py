"""The feature cache: bounded, in the dtype asked for, and never in the way of training."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from client_app import feature_cache
from client_app.feature_cache import Computed, FeatureCache, Features, cached
from fedstrata.support.errors import UserError
from models.training.data import ArrayInputs, Split

ROWS, WIDTH = 50, 6
CPU = torch.device("cpu")


class Counting(nn.Module):
    """Passes its inputs on, times a factor, and notes how many came at once."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.seen: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(inputs))
        return inputs * self.factor


def split_of(seed: int, rows: int = ROWS) -> Split:
    values = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return Split(ArrayInputs(values), np.zeros(rows, dtype=np.int64))


def kept(
    split: Split, cache: FeatureCache, prefix: nn.Module | None = None, batch_size: int = 16
) -> Features | Computed:
    found = cached(
        prefix or Counting(),
        "prefix",
        split,
        cache,
        batch_size=batch_size,
        device=CPU,
        autocast=False,
    )
    assert found.labels is split.labels
    assert isinstance(found.inputs, Features | Computed)
    return found.inputs


def everything(inputs: Features | Computed) -> torch.Tensor:
    return inputs.batch(np.arange(len(inputs)))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2)])
def test_a_file_has_every_row_in_the_dtype_asked_for(tmp_path: Path, dtype: str, size: int) -> None:
    split = split_of(1)
    inputs = kept(split, FeatureCache(tmp_path / "f", 10**6, dtype))
    assert isinstance(inputs, Features)
    assert isinstance(inputs.values, np.memmap)
    assert inputs.values.itemsize == size
    expected = split.inputs.batch(np.arange(ROWS)).to(getattr(torch, dtype)).float()
    assert torch.equal(everything(inputs), expected)
    assert inputs.batch(np.array([3, 1])).dtype == torch.float32
    assert torch.equal(inputs.batch(np.array([3, 1])), expected[[3, 1]])


def test_outputs_on_disk_are_not_computed_again_and_each_dtype_has_its_own(tmp_path: Path) -> None:
    split, prefix = split_of(1), Counting()
    cache = FeatureCache(tmp_path, 10**6, "float16")
    kept(split, cache, prefix)
    passed = len(prefix.seen)
    kept(split, cache, prefix)
    assert len(prefix.seen) == passed
    kept(split, FeatureCache(tmp_path, 10**6, "float32"), prefix)
    assert len(prefix.seen) > passed
    assert len(list(tmp_path.iterdir())) == 2


def test_outputs_of_other_threads_or_batches_are_not_taken(tmp_path: Path) -> None:
    # A convolution of one example, or with more threads, may sum in another order.
    cache, prefix = FeatureCache(tmp_path, 10**6, "float32"), Counting()
    for files, (threads, batch_size) in enumerate([(1, 16), (1, 1), (2, 16), (1, 16)], start=1):
        torch.set_num_threads(threads)  # tests/conftest.py puts it back
        kept(split_of(1), cache, prefix, batch_size)
        assert len(list(tmp_path.iterdir())) == min(files, 3)
    for batch_size in (ROWS, 2 * ROWS):  # the whole at once, both times
        kept(split_of(1), cache, prefix, batch_size)
    assert len(list(tmp_path.iterdir())) == 4


def test_rows_pass_the_prefix_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = Counting()
    kept(split_of(1), FeatureCache(tmp_path / "a", 10**6, "float32"), prefix, batch_size=20)
    assert prefix.seen == [1, 20, 20, 10]  # the first tells the shape
    monkeypatch.setattr(feature_cache, "AT_ONCE", 15 * WIDTH * 4)
    small = Counting()
    kept(split_of(1), FeatureCache(tmp_path / "b", 10**6, "float32"), small, batch_size=20)
    assert small.seen == [1, 15, 15, 15, 5]


def test_files_that_were_not_used_for_long_make_room(tmp_path: Path) -> None:
    size = kept_size(tmp_path / "one")
    cache = FeatureCache(tmp_path / "f", 2 * size + size // 2, "float16")
    for seed in (1, 2):
        assert isinstance(kept(split_of(seed), cache), Features)
    first, second = sorted(cache.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    age(first, 3 * feature_cache.IN_USE)
    age(second, 2 * feature_cache.IN_USE)
    still_open = kept(split_of(1), cache)  # used again, and so the younger one
    assert isinstance(kept(split_of(3), cache), Features)
    assert first.exists()
    assert not second.exists()
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= cache.most
    age(first, 2 * feature_cache.IN_USE)
    assert isinstance(kept(split_of(4), cache), Features)
    assert not first.exists()
    expected = split_of(1).inputs.batch(np.arange(ROWS)).half().float()
    assert torch.equal(everything(still_open), expected)  # who has it open reads on


def test_recently_used_files_stay_and_other_outputs_are_computed_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = kept_size(tmp_path / "one")
    cache = FeatureCache(tmp_path / "f", size + size // 2, "float16")
    assert isinstance(kept(split_of(1), cache), Features)
    (first,) = cache.folder.iterdir()
    prefix = Counting()
    other = kept(split_of(2), cache, prefix)
    assert isinstance(other, Computed)
    assert list(cache.folder.iterdir()) == [first]
    assert "no room" in caplog.text
    prefix.seen.clear()
    expected = split_of(2).inputs.batch(np.arange(ROWS)).half().float()
    assert torch.equal(everything(other), expected)  # as a file would have it
    assert prefix.seen == [16, 16, 16, 2]  # however many are asked for
    assert (
        other.digest() == kept(split_of(2), FeatureCache(tmp_path / "g", 10**6, "float16")).digest()
    )


def test_a_cache_of_no_bytes_writes_nothing(tmp_path: Path) -> None:
    assert isinstance(kept(split_of(1), FeatureCache(tmp_path, 0, "float16")), Computed)
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_killed_process_count_and_are_removed(tmp_path: Path) -> None:
    size = kept_size(tmp_path / "one")
    cache = FeatureCache(tmp_path / "f", size + size // 2, "float16")
    cache.folder.mkdir()
    left = cache.folder / f".{'0' * 64}.npy.{'1' * 32}.tmp"
    left.write_bytes(bytes(size))
    assert isinstance(kept(split_of(1), cache), Computed)
    age(left, 2 * feature_cache.IN_USE)
    assert isinstance(kept(split_of(1), cache), Features)
    assert not left.exists()


def test_values_beyond_float16_are_rejected(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10**6, "float16")
    message = r"up to \d.* too large for float16: set train\.feature_dtype=float32"
    with pytest.raises(UserError, match=message) as raised:
        kept(split_of(1), cache, Counting(1e6))
    assert "up to" not in raised.value.public  # a site's features do not leave it
    assert list(tmp_path.iterdir()) == []
    assert isinstance(
        kept(split_of(1), FeatureCache(tmp_path, 10**6, "float32"), Counting(1e6)), Features
    )


def test_a_full_disk_is_noticed_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, total=10**12, free=10**9)
    prefix = Counting()
    assert isinstance(kept(split_of(1), FeatureCache(tmp_path, 10**6, "float16"), prefix), Computed)
    assert prefix.seen == [1]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_removes_files_that_were_not_used_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, 10**9, "float16")
    kept(split_of(1), cache)
    (old,) = tmp_path.iterdir()
    disk(monkeypatch, total=100_000, free=5_000 + old.stat().st_size // 2)
    assert isinstance(kept(split_of(2), cache), Computed)
    age(old, 2 * feature_cache.IN_USE)
    assert isinstance(kept(split_of(2), cache), Features)
    assert not old.exists()


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    size = kept_size(tmp_path / "one")
    cache = FeatureCache(tmp_path / "f", size, "float16")
    cache.folder.mkdir()
    other = cache.folder / "patients.csv"
    other.write_bytes(bytes(10 * size))
    age(other, 2 * feature_cache.IN_USE)
    assert isinstance(kept(split_of(1), cache), Features)
    assert isinstance(kept(split_of(2), cache), Computed)
    assert other.stat().st_size == 10 * size


def test_a_file_that_is_being_written_counts_in_full(tmp_path: Path) -> None:
    size = kept_size(tmp_path / "one")
    cache = FeatureCache(tmp_path / "f", size + size // 2, "float16")
    begun = cache.folder / f".{'0' * 64}.npy.{'1' * 32}.tmp"
    assert cache.reserve(begun, size)
    assert begun.stat().st_blocks * 512 >= size
    assert isinstance(kept(split_of(1), cache), Computed)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_outputs_may_lie_in_memory_in_any_order(tmp_path: Path, dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 5, 5, 3), np.uint8)
    split = Split(ArrayInputs(pixels), np.zeros(10, dtype=np.int64))
    prefix = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = kept(split, FeatureCache(tmp_path, 10**6, dtype), prefix)
    assert isinstance(found, Features)
    with torch.no_grad():
        expected = prefix(split.inputs.batch(np.arange(10)))
    assert not expected.is_contiguous()
    assert torch.allclose(everything(found), expected, atol=1e-2)


def test_a_read_only_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, 10**6, "float16")
    kept(split_of(1), cache)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(feature_cache.os, "utime", refuse)
    assert isinstance(kept(split_of(1), cache), Features)


@pytest.mark.parametrize("at", [-1, -40, 100, 1])
def test_a_flipped_bit_is_noticed_and_the_outputs_are_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    cache, split = FeatureCache(tmp_path, 10**6, "float16"), split_of(1)
    expected = everything(kept(split, cache))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)
    feature_cache._whole.clear()  # as in the process of another run
    found = kept(split, cache)
    assert isinstance(found, Features)
    assert torch.equal(everything(found), expected)
    assert f"the cached features {path} are damaged" in caplog.text


@given(st.binary(max_size=200))
def test_any_other_file_is_computed_again(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("f")
    cache, split = FeatureCache(folder, 10**6, "float16"), split_of(1)
    expected = everything(kept(split, cache))
    (path,) = folder.iterdir()
    path.write_bytes(content)
    assert torch.equal(everything(kept(split, cache)), expected)
    assert path.stat().st_size == kept_size(folder / "one")


def test_a_file_with_other_rows_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(tmp_path, 10**6, "float16")
    kept(split_of(1), cache)
    (path,) = tmp_path.iterdir()
    np.save(path, np.zeros((ROWS - 1, WIDTH), dtype=np.float16))
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())
    assert len(kept(split_of(1), cache)) == ROWS
    assert f"does not have {ROWS} rows of float16" in caplog.text


def test_only_the_sites_user_may_read_the_cache_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept(split_of(1), FeatureCache(tmp_path / "made" / "f", 10**6, "float16"))
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {0o700, 0o600}


def kept_size(folder: Path) -> int:
    """Return the bytes of one split's file."""
    kept(split_of(0), FeatureCache(folder, 10**6, "float16"))
    (path,) = folder.iterdir()
    return path.stat().st_size


def disk(monkeypatch: pytest.MonkeyPatch, *, total: int, free: int) -> None:
    usage = type("Usage", (), {"total": total, "free": free})
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: usage)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))
