"""The order of time of shuffled windows is found, and blocks cut from it share no sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client_app.data.har_files import open_recordings
from client_app.data.overlaps import EXTREMES, in_order_of_time, overlap_free_share, shared_extremes
from client_app.data.registry import load
from fedstrata.support.errors import UserError

WINDOW = 128


def windows(
    generator: np.random.Generator, lengths: tuple[int, ...] = (9, 14, 6, 11)
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return features, activities and recordings of windows of signals that overlap by half."""
    features, labels, recording = [], [], []
    signals = len(EXTREMES) // 2
    for number, length in enumerate(lengths):
        samples = generator.normal(size=(WINDOW // 2 * (length + 1), signals)).astype(np.float32)
        for start in range(0, len(samples) - WINDOW + 1, WINDOW // 2):
            window = samples[start : start + WINDOW]
            row = generator.normal(size=561).astype(np.float32)
            row[EXTREMES[::2]], row[EXTREMES[1::2]] = window.max(axis=0), window.min(axis=0)
            features.append(row)
            labels.append(number % 2)
            recording.append(number)
    return np.stack(features), np.array(labels), np.array(recording)


@given(seed=st.integers(0, 2**32 - 1))
def test_shuffled_recordings_are_put_in_order_of_time(seed: int) -> None:
    generator = np.random.default_rng(seed)
    features, labels, recording = windows(generator)
    shuffled = generator.permutation(len(labels))
    order = in_order_of_time(shared_extremes(features[shuffled], labels[shuffled]))
    assert sorted(order) == list(range(len(labels)))
    found = shuffled[order]  # the original numbers, which are the order of time
    for number in np.unique(recording):
        along = found[recording[found] == number]
        assert np.array_equal(along, np.sort(along)) or np.array_equal(along, np.sort(along)[::-1])
        places = np.flatnonzero(recording[found] == number)
        assert places[-1] - places[0] == len(places) - 1  # in one piece


@given(
    shared=st.integers(1, 12).flatmap(
        lambda n: st.lists(st.integers(0, 4), min_size=n * n, max_size=n * n)
    )
)
def test_any_table_of_neighbors_gives_an_order(shared: list[int]) -> None:
    size = int(len(shared) ** 0.5)
    table = np.array(shared, dtype=np.int64).reshape(size, size)
    table = np.triu(table, 1) + np.triu(table, 1).T
    assert sorted(in_order_of_time(table)) == list(range(size))
    assert 0 <= overlap_free_share(table) <= 1


def test_shuffled_windows_are_cut_into_blocks(tmp_path, options, info) -> None:
    generator = np.random.default_rng(3)
    features, labels, _ = windows(generator, (40, 40, 30, 30))
    order = generator.permutation(len(labels))
    features, labels = features[order], labels[order]
    np.savez(tmp_path / "one.npz", x=features, y=labels + 1, subject=np.ones(len(labels), int))
    data = load("har", options("har", split="blocks"), info(root=tmp_path), seed=1)
    assert min(len(data.train), len(data.validation), len(data.test)) > 5
    check_no_overlap(data)
    scattered = {"x": generator.normal(size=features.shape), "y": labels + 1}
    np.savez(tmp_path / "one.npz", **scattered, subject=np.ones(len(labels), int))
    with pytest.raises(UserError, match="share no extreme value"):
        load("har", options("har", split="blocks"), info(root=tmp_path), seed=1)


def test_no_two_splits_of_the_real_subjects_share_samples(real, options, info) -> None:
    root = real("har.npz")
    assert len(open_recordings(root).labels) == 10299
    for index in (0, 7, 29):
        here = info(root=root, index=index, count=30)
        check_no_overlap(load("har", options("har", split="blocks"), here, seed=1))


def check_no_overlap(data) -> None:
    """Assert that no window shares one extreme value with a window of another split."""
    splits = [data.train, data.validation, data.test]
    features = np.concatenate([split.inputs.values for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    side = np.repeat([0, 1, 2], [len(split) for split in splits])
    shared = shared_extremes(features, labels)
    assert shared.any()
    assert not shared[side[:, None] != side[None, :]].any()
