"""Examples that stay in a GPU's memory between steps and between rounds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client_app.feature_cache import Features
from models.training.data import Inputs, Split

SHARE = 0.25  # of the memory that the process may use on the device
IN_USE = 3600.0  # seconds for which examples that were used do not make room for others
CHUNK = 256  # examples that go to the device at once


def to_device(model: nn.Module, device: torch.device) -> None:
    """Put the model on the device; on CUDA with channels last, where its convolutions are fastest."""
    if device.type == "cuda":
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        model.to(device)


@dataclass(frozen=True)
class OnDevice:
    """Inputs in a device's memory.

    Parameters
    ----------
    values : Tensor
        All of them, shape ``(n, ...)``; features in float16 where their file has them so.
    key : str
        The content hash of the inputs that they are from.
    """

    values: Tensor
    key: str

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the inputs at ``indices``, on the device: float32, or int64 token ids."""
        chosen = self.values[torch.from_numpy(indices).to(self.values.device)]
        return chosen.float() if chosen.is_floating_point() else chosen

    def digest(self) -> str:
        """Return what the inputs that they are from return."""
        return self.key


@dataclass
class GpuCache:
    """What one process keeps on its devices, each data set once.

    What does not fit is left where it is: to move data sets in and out in every round would cost
    more than it saves. Only data that were not used for an hour make room.
    """

    _kept: dict[tuple[str, torch.device], OnDevice] = field(default_factory=dict)
    _used: dict[tuple[str, torch.device], float] = field(default_factory=dict)

    def on_device(self, split: Split, device: torch.device, most: int) -> Split:
        """Return ``split`` with its inputs on ``device``; as it is where they do not fit.

        Parameters
        ----------
        split : Split
            The examples.
        device : torch.device
            Where they are used.
        most : int
            Bytes that all examples together may take there.
        """
        inputs = split.inputs
        key = (inputs.digest(), device)
        now = time.monotonic()
        if key not in self._kept:
            first = inputs.batch(np.arange(1))
            # Features as their file has them: half the bytes of the float32 that a batch is.
            dtype = inputs.dtype if isinstance(inputs, Features) else first.dtype
            size = len(inputs) * first.numel() * dtype.itemsize
            if not self._make_room(size, device, most, now):
                return split
            values = torch.empty((len(inputs), *first.shape[1:]), dtype=dtype, device=device)
            _fill(values, inputs)
            self._kept[key] = OnDevice(values, key[0])
        self._used[key] = now
        return Split(self._kept[key], split.labels)

    def clear(self) -> None:
        """Free everything: the memory is needed."""
        self._kept.clear()
        self._used.clear()

    def taken(self, device: torch.device) -> int:
        """Return the bytes that are kept on ``device``."""
        return sum(kept.values.nbytes for (_, where), kept in self._kept.items() if where == device)

    def _make_room(self, size: int, device: torch.device, most: int, now: float) -> bool:
        over = self.taken(device) + size - most
        idle = [k for k in self._kept if k[1] == device and now - self._used[k] > IN_USE]
        if over > sum(self._kept[key].values.nbytes for key in idle):
            return False
        for key in sorted(idle, key=self._used.__getitem__):
            if over <= 0:
                break
            over -= self._kept[key].values.nbytes
            del self._kept[key], self._used[key]
        return True


def room_on(device: torch.device, cache: GpuCache) -> int:
    """Return how many bytes examples may take on a CUDA device: a quarter of the process's share.

    It is never more than what they take already and half of what is free: others compute there too.
    """
    free, total = torch.cuda.mem_get_info(device)
    own = int(total * torch.cuda.get_per_process_memory_fraction(device))
    free = min(free, own - torch.cuda.memory_reserved(device))
    return int(min(SHARE * own, cache.taken(device) + free / 2))


def _fill(values: Tensor, inputs: Inputs) -> None:
    """Write all inputs to ``values`` in chunks, so that no second copy of all is made."""
    for start in range(0, len(inputs), CHUNK):
        indices = np.arange(start, min(start + CHUNK, len(inputs)))
        values[start : start + CHUNK] = inputs.batch(indices).to(values.dtype)
