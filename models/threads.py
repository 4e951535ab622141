"""How many CPU threads torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """Let torch have ``count`` CPU threads within the block; those that it has where it is None.

    The last digits of sums depend on how many there are.
    """
    before = torch.get_num_threads()
    # A call that changes nothing would still switch off MKL's own choice of threads.
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
