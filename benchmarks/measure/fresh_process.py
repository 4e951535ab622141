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

Result = TypeVar("Result")


def memory_now() -> int:
    """Return the bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory at a time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def largest_difference(left: Path, right: Path) -> float:
    """Return the largest difference of a tensor between two safetensors files.

    The norm of the difference relative to that of the tensor in ``right``, both in float64.
    """
    import safetensors.torch

    one, other = (safetensors.torch.load_file(path) for path in (left, right))
    assert one.keys() == other.keys()
    return max(
        float((tensor.double() - other[name]).norm() / other[name].double().norm().clamp(min=1e-30))
        for name, tensor in one.items()
    )


def in_fresh_process(
    preload: Sequence[str], function: Callable[..., Result], *arguments: Any
) -> Result:
    """Return ``function(*arguments)``, called in a fresh process.

    The process is forked from one that has imported the modules ``preload`` and done nothing else.
    So imports are in no measurement, and one case leaves nothing to the next.

    Parameters
    ----------
    preload : sequence of str
        Modules; the same in every call of a process.
    function : callable
        A function of a module; its arguments and its result are pickled.
    """
    context = _context(tuple(preload))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


@cache
def _context(preload: tuple[str, ...]) -> Any:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as both apps set it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context
