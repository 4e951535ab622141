"""Keeps all replies of a round: in memory up to a limit, the rest on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.support.durable import private_folder
from fedstrata.support.errors import UserError, private
from fedstrata.support.home import home
from strategies.aggregators.base import Tensors
from strategies.aggregators.blocks import Block, Numbers, flat, made_of_blocks, numbers

# Elements of all replies together that a thread works on at a time: one megabyte of float32.
BLOCK_OF_ALL = 1 << 18
_IN_MEMORY = 0.75  # the share of the limit for replies; the rest is for reading those on disk


class ReplyBuffer:
    """The replies of one round by site, all with the same names, shapes and dtypes.

    Parameters
    ----------
    like : mapping of str to Tensor
        Names, shapes and dtypes of each.
    limit : int
        Bytes of memory for them. The others go to a file in ``$FEDSTRATA_HOME/spool``. It has no
        name, so that it is gone with the process, even with one that is killed.
    """

    def __init__(self, like: Tensors, limit: int) -> None:
        self._like, self._limit = like, limit
        self._width = max((_dtype(tensor).itemsize for tensor in like.values()), default=1)
        self._in_memory: dict[str, dict[str, Tensor]] = {}  # by site and name, one dimension each
        self._places: dict[str, dict[str, int]] = {}  # by site and name: its offset in the file
        self._file: IO[bytes] | None = None
        self._file_size = 0
        self._bytes = 0  # of the replies in memory

    def __len__(self) -> int:
        return len(self._in_memory) + len(self._places)

    @property
    def sites(self) -> list[str]:
        """The names of the sites, sorted."""
        return sorted([*self._in_memory, *self._places])

    @property
    def on_disk(self) -> int:
        """How many replies did not fit into memory."""
        return len(self._places)

    def add(self, site: str, update: Tensors) -> None:
        """Add the reply of ``site``, which must not be changed before `close`.

        Raises
        ------
        UserError
            If neither memory nor disk has room for it; nothing is changed then.
        """
        size = sum(tensor.nbytes for tensor in update.values())
        if self._bytes + size <= _IN_MEMORY * self._limit:
            self._in_memory[site] = {name: flat(tensor) for name, tensor in update.items()}
            self._bytes += size
            return
        try:
            places = self._write(update)
        except OSError as error:
            raise UserError(
                f"the replies of a round do not fit into {self._limit / 1e6:.0f} MB "
                "(strategy.aggregators.<group>.memory_mb), and cannot be kept on disk"
                + private(f" in {_folder()}: {error}")
            ) from None
        self._places[site] = places

    def close(self) -> None:
        """Drop all replies."""
        if self._file is not None:
            self._file.close()
        self._in_memory, self._places, self._file = {}, {}, None

    def reduced(
        self, sites: Sequence[str], reduce: Callable[[Numbers], Numbers]
    ) -> dict[str, Tensor]:
        """Combine the replies of ``sites`` element by element, and return the tensors.

        Parameters
        ----------
        sites : sequence of str
            Whose replies to take, in this order.
        reduce : callable
            From shape ``(n, b)``, float32, or float64 if the tensor is, to ``(b,)``.
            Called in several threads.
        """
        step = self._step(len(sites), torch.get_num_threads())

        def fill(blocks: Iterator[tuple[Block, Tensor]]) -> None:
            room = self._room(len(sites), step)
            for (name, span), target in blocks:
                for part, rows in self._parts(sites, name, span, room):
                    target[part].copy_(torch.from_numpy(reduce(rows)))

        return made_of_blocks(self._like, step, fill)

    def blocks(self, sites: Sequence[str]) -> Iterator[tuple[str, slice, Numbers]]:
        """Yield the elements of all tensors in turn: name, slice, and shape ``(n, b)`` of ``sites``.

        The rows are float32, or float64 if the tensor is. They are valid until the next ones.
        """
        step = self._step(len(sites), threads=1)
        room = self._room(len(sites), step)
        for name, tensor in self._like.items():
            for start in range(0, tensor.numel(), step):
                span = slice(start, min(start + step, tensor.numel()))
                for part, rows in self._parts(sites, name, span, room):
                    yield name, slice(start + part.start, start + part.stop), rows

    def _parts(
        self, sites: Sequence[str], name: str, span: slice, room: NDArray[np.uint8]
    ) -> Iterator[tuple[slice, Numbers]]:
        """Yield parts of ``span`` that fit a cache, relative to its start, with the rows of ``sites``."""
        width = span.stop - span.start
        dtype = _dtype(self._like[name])
        rows = room[: len(sites) * width * dtype.itemsize].view(dtype).reshape(len(sites), width)
        for site, row in zip(sites, rows, strict=True):
            self._read(site, name, span, row)
        step = max(1, BLOCK_OF_ALL // len(sites))
        for start in range(0, width, step):
            part = slice(start, min(start + step, width))
            yield part, rows[:, part]

    def _step(self, count: int, threads: int) -> int:
        """Return how many elements of each of ``count`` replies are read at a time.

        From a disk it is as many as the limit allows: a disk is fast only for long reads.
        """
        elements = BLOCK_OF_ALL
        if self._places:
            elements = max(elements, int((1 - _IN_MEMORY) * self._limit) // (self._width * threads))
        return max(1, elements // count)

    def _room(self, count: int, step: int) -> NDArray[np.uint8]:
        longest = max((tensor.numel() for tensor in self._like.values()), default=0)
        return np.empty(count * min(step, longest) * self._width, np.uint8)

    def _read(self, site: str, name: str, span: slice, row: Numbers) -> None:
        if site in self._in_memory:
            np.copyto(row, numbers(self._in_memory[site][name][span]))
            return
        assert self._file is not None
        left = memoryview(row.data).cast("B")
        place = self._places[site][name] + span.start * row.itemsize
        while left:
            done = os.preadv(self._file.fileno(), [left], place)
            if not done:
                raise OSError(f"the replies in {_folder()} are cut short")
            left, place = left[done:], place + done

    def _write(self, update: Tensors) -> dict[str, int]:
        """Append the numbers of ``update`` to the file; return where each tensor begins."""
        if self._file is None:
            private_folder(_folder())
            self._file = tempfile.TemporaryFile(dir=_folder())  # noqa: SIM115
        places, place = {}, self._file_size
        for name, tensor in update.items():
            places[name] = place
            left = memoryview(numbers(flat(tensor).contiguous()).data).cast("B")
            while left:
                done = os.pwritev(self._file.fileno(), [left], place)
                left, place = left[done:], place + done
        # Only now: a write that fails in between leaves no reply, and the next one overwrites it.
        self._file_size = place
        return places


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    """Return the dtype to compute with ``tensor`` in."""
    return numbers(torch.empty(0, dtype=tensor.dtype)).dtype


def _folder() -> Path:
    return home() / "spool"
