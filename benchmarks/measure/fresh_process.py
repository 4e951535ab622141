"""A function in a process of its own: what it returns, and the most memory it took."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")


def in_gpu_memory() -> int:
    """Return the bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def most_resident() -> int:
    """Return the most bytes that this process has had in memory at a time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def largest_difference(left: Path, right: Path) -> float:
    """Return how far the tensors of two safetensors files are apart, at the most.

    The norm of the difference relative to that of the tensor in ``right``, both in float64.
    """
    import safetensors.torch

    one, other = (safetensors.torch.load_file(path) for path in (left, right))
    assert one.keys() == other.keys()
    return max(
        float((tensor.double() - other[name]).norm() / other[name].double().norm().clamp(min=1e-30))
        for name, tensor in one.items()
    )


def apart(preload: Sequence[str], do: Callable[..., Made], *arguments: Any) -> Made:
    """Return ``do(*arguments)``, called in a fresh process.

    It is forked from one that has imported the modules ``preload`` and done nothing else, so that
    imports are in no measurement, and one case leaves nothing to the next.

    Parameters
    ----------
    preload : sequence of str
        Modules; the same in every call of a process.
    do : callable
        A function of a module; what it takes and returns is pickled.
    """
    context = _context(tuple(preload))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(do, *arguments).result()


@cache
def _context(preload: tuple[str, ...]) -> Any:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as both apps set it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context
