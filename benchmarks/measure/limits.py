"""What this machine allows at best: the rate of a large copy, and that of a large matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

COPIED = 256 * 2**20  # bytes of a copy: many times what caches hold
SIDE = 2048  # of the square matrices on a CPU; on a GPU SIDE_GPU
SIDE_GPU = 8192
TRIES = 5  # the best one counts


@dataclass(frozen=True)
class Limits:
    """Rates of one device, the best of some tries.

    Parameters
    ----------
    copy : float
        Bytes read and written per second by a large copy.
    product : float
        Floating point operations per second of a large matrix product in ``dtype``.
    dtype : str
        Of that product: ``float32``, ``float64``, ``bfloat16``.
    threads : int
        CPU threads that both were measured with.
    """

    copy: float
    product: float
    dtype: str
    threads: int

    def describe(self) -> str:
        """Return a sentence with both."""
        return (
            f"A large copy moves {self.copy / 1e9:.1f} GB/s here (read and written), a large "
            f"{self.dtype} matrix product does {self.product / 1e9:.0f} GFLOP/s, both with "
            f"{self.threads} threads."
        )


@cache
def limits(device: str, dtype: torch.dtype) -> Limits:
    """Measure ``device`` with as many threads as torch may use now; seconds, once a process."""
    where = torch.device(device)
    source = torch.ones(COPIED // 4, device=where)
    target = torch.empty_like(source)
    moved = 2 * COPIED / _best(lambda: target.copy_(source), where)
    side = SIDE if where.type == "cpu" else SIDE_GPU
    left = torch.rand(side, side, device=where).to(dtype)
    product = 2 * side**3 / _best(lambda: left @ left, where)
    return Limits(moved, product, str(dtype).removeprefix("torch."), torch.get_num_threads())


def operations(work: Callable[[], object]) -> float:
    """Return the floating point operations of products and convolutions, backward too, in ``work``."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of some tries; the first, which allocates, is not timed."""
    seconds = []
    for _ in range(TRIES + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the product was only enqueued
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
