"""A pool of several sites' inputs gives the same rows as its parts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client_app.pooled.inputs import Pool, pooled
from models.training.data import ArrayInputs, Split


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_a_pool_gives_the_rows_of_its_parts(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    arrays = [generator.normal(size=(size, 3)).astype(np.float32) for size in sizes]
    parts = [Split(ArrayInputs(a), np.zeros(len(a), dtype=np.int64)) for a in arrays]
    pool = Pool(tuple(parts))
    whole = np.concatenate(arrays)
    assert len(pool) == len(whole)
    chosen = generator.integers(0, len(whole), size=7)
    assert np.array_equal(pool.batch(chosen).numpy(), whole[chosen])
    assert np.array_equal(pooled(parts).batch(chosen).numpy(), whole[chosen])
    other = [*parts, Split(ArrayInputs(whole, (1.0,), (2.0,)), np.zeros(len(whole), np.int64))]
    mixed = pooled(other).batch(np.array([0, 2 * len(whole) - 1])).numpy()
    assert np.array_equal(mixed, np.stack([whole[0], (whole[-1] - 1) / 2]))
