"""Out of memory on the device: the same work again, with batches in smaller micro_batches."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from client_app.context import SiteContext
from client_app.round import GPU_CACHE
from fedstrata.support.errors import UserError

logger = logging.getLogger("flwr")
Done = TypeVar("Done")
# What torch raises besides OutOfMemoryError: its allocator on the CPU, cuBLAS and cuDNN.
TEXTS = ("DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "out of memory")


def out_of_memory(error: Exception) -> bool:
    """Return whether ``error`` says that the device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def in_micro_batches(do: Callable[[int], Done], *, most: int, device: torch.device) -> Done:
    """Return ``do(1)``, or where memory does not suffice ``do(2)``, ``do(4)``, ...

    Parameters
    ----------
    do : callable
        Takes into how many micro_batches to cut each batch; does all of its work again each time.
    most : int
        Examples in a batch: with as many micro_batches there is one example in each.
    device : torch.device
        Where the work is done; its cached memory is given back before the next try.

    Raises
    ------
    UserError
        Where the memory does not even suffice for ``most`` micro_batches.
    """
    micro_batches = 1
    while True:
        try:
            return do(micro_batches)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if micro_batches >= most:
                raise UserError(
                    f"out of memory on {device}, even with the smallest micro_batches of a batch: free "
                    "memory there, give the site another device, or choose a smaller model"
                ) from None
        # Only here is the error gone, and with it the tensors that its traceback held.
        micro_batches = min(2 * micro_batches, most)
        logger.warning(
            "out of memory on %s: again, each batch in %d micro_batches", device, micro_batches
        )
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def within_memory(bench: SiteContext, do: Callable[[SiteContext], Done]) -> Done:
    """Return what ``do`` gives at ``bench``; out of memory, it begins again with smaller micro_batches.

    Everything that ``do`` changes is set up anew in each try: the model, the optimiser, the random
    numbers. So the micro_batches are as if they had been chosen from the beginning.
    """

    def attempt(micro_batches: int) -> Done:
        if micro_batches > 1:
            GPU_CACHE.clear()
        bench.partitioned.model.zero_grad(set_to_none=True)
        return do(replace(bench, micro_batches=micro_batches))

    return in_micro_batches(attempt, most=max(bench.plan.train.batch_size, 2), device=bench.device)
