"""Out of memory on the device: the same work again, with batches in smaller micro-batches."""

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
Result = TypeVar("Result")
# What torch raises besides OutOfMemoryError: its allocator on the CPU, cuBLAS and cuDNN.
TEXTS = ("DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "out of memory")


def out_of_memory(error: Exception) -> bool:
    """Return whether ``error`` says that the device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def in_micro_batches(do: Callable[[int], Result], *, most: int, device: torch.device) -> Result:
    """Return ``do(1)``, or where memory does not suffice ``do(2)``, ``do(4)``, ...

    Parameters
    ----------
    do : callable
        Takes the number of micro-batches of each batch; does all of its work again each time.
    most : int
        Examples in a batch: with as many micro-batches there is one example in each.
    device : torch.device
        Where the work is done; its cached memory is freed before the next try.

    Raises
    ------
    UserError
        Where the memory does not even suffice for ``most`` micro-batches.
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
                    f"out of memory on {device}, even with the smallest micro-batches of a batch: "
                    "free memory there, give the site another device, or choose a smaller model"
                ) from None
        # Only here is the error gone, and with it the tensors that its traceback refers to.
        micro_batches = min(2 * micro_batches, most)
        logger.warning(
            "out of memory on %s: again, each batch in %d micro-batches", device, micro_batches
        )
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def within_memory(context: SiteContext, do: Callable[[SiteContext], Result]) -> Result:
    """Return ``do(context)``; where memory is short, ``do`` of one with more micro-batches.

    ``do`` prepares everything that it changes anew in each try: the model, the optimizer, the
    random numbers. So the result is as if the micro-batches had been chosen from the beginning.
    """

    def attempt(micro_batches: int) -> Result:
        if micro_batches > 1:
            GPU_CACHE.clear()
        # The gradients of the failed try would take memory beside those of the next.
        context.partitioned.model.zero_grad(set_to_none=True)
        return do(replace(context, micro_batches=micro_batches))

    # At least two: BatchNorm in train mode cannot take a batch of one.
    most = max(context.plan.train.batch_size, 2)
    return in_micro_batches(attempt, most=most, device=context.device)
