"""Runs work over the elements of a group's tensors in blocks that fit the caches, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.protocol.tensors import uninitialized

Block = tuple[str, slice]
Numbers = NDArray[Any]  # float32, or float64 where the tensor is

# Elements that a thread works on at a time. As float64 they take a megabyte, as much as a core's own
# cache has; with fewer, steps are too short.
BLOCK = 1 << 17


def on_all_cores(
    sizes: Mapping[str, int], step: int, work: Callable[[Iterator[Block]], None]
) -> None:
    """Divide the blocks of some tensors among threads.

    Parameters
    ----------
    sizes : mapping of str to int
        The number of elements of each tensor.
    step : int
        Elements of a block.
    work : callable
        Gets an iterator over blocks: a tensor's name and a slice of its elements. It is called in
        as many threads as torch may use; a free one takes the next block. It must release the GIL
        for most of its time, as numpy's loops do.
    """
    blocks = [
        (name, slice(start, min(start + step, size)))
        for name, size in sizes.items()
        for start in range(0, size, step)
    ]
    shared = iter(blocks)  # a list's iterator gives each element to one thread
    cores = torch.get_num_threads()
    if cores == 1 or sum(sizes.values()) <= step:
        work(shared)
        return
    futures = [_threads(cores - 1).submit(work, shared) for _ in range(cores - 1)]
    try:
        work(shared)
    finally:
        for future in futures:
            future.result()


@lru_cache(maxsize=1)
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="aggregate")


# A forked child inherits the pool but none of its threads: it would wait for them forever.
os.register_at_fork(after_in_child=_threads.cache_clear)


def flat(tensor: Tensor) -> Tensor:
    """Return the elements of ``tensor`` in one dimension, without its graph; a view if possible."""
    return tensor.detach().reshape(-1)


def numbers(values: Tensor) -> Numbers:
    """Return ``values`` as float32, or float64 if they are that; a view where possible."""
    if values.dtype not in (torch.float32, torch.float64):
        values = values.to(torch.float32)
    array: Numbers = values.numpy()
    return array


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def made_of_blocks(
    like: Mapping[str, Tensor], step: int, fill: Callable[[Iterator[tuple[Block, Tensor]]], None]
) -> dict[str, Tensor]:
    """Return new tensors, with the shapes and dtypes of ``like``, that ``fill`` has filled.

    Parameters
    ----------
    like : mapping of str to Tensor
        Names, shapes and dtypes.
    step : int
        Elements of a block.
    fill : callable
        Takes an iterator over blocks, each with the one-dimensional view to write it to; called
        in several threads, see `on_all_cores`.
    """
    made = {name: uninitialized(tensor.shape, tensor.dtype) for name, tensor in like.items()}
    views = {name: tensor.reshape(-1) for name, tensor in made.items()}

    def work(blocks: Iterator[Block]) -> None:
        fill(((name, span), views[name][span]) for name, span in blocks)

    on_all_cores({name: len(view) for name, view in views.items()}, step, work)
    return made


def scratch(dtype: type[np.generic]) -> NDArray[Any]:
    """Return an array for the temporary values of one block."""
    return np.empty(BLOCK, dtype)
