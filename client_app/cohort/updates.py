"""What sites that trained as one exchange: their tensors stay stacked until they are added up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor


class StackedUpdates:
    """Tensors of m sites by name, on the CPU.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Of shape ``(m, ...)``; they must not be changed afterwards.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    @cached_property
    def largest(self) -> dict[str, list[float]]:
        """Of each floating-point tensor the largest magnitude by site; NaN where there is one."""
        return {
            name: _largest(tensor.reshape(len(tensor), -1)).tolist()
            for name, tensor in self.tensors.items()
            if tensor.is_floating_point() and tensor.numel()
        }


class SiteUpdate(Mapping[str, Tensor]):
    """The tensors of one of the sites, each a view.

    Parameters
    ----------
    stack : StackedUpdates
        Those of all.
    place : int
        Which of them.
    """

    def __init__(self, stack: StackedUpdates, place: int) -> None:
        self.stack, self.place = stack, place

    def __getitem__(self, name: str) -> Tensor:
        return self.stack.tensors[name][self.place]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stack.tensors)

    def __len__(self) -> int:
        return len(self.stack.tensors)

    def not_finite(self) -> str:
        """Return which tensor is not finite, in the words of training alone, or ""."""
        for name, largest in self.stack.largest.items():
            if not largest[self.place] < float("inf"):
                return f"{name} is not finite after training: lower train.optimizer.lr"
        return ""

    def within(self, names: tuple[str, ...], limit: float) -> bool:
        """Return whether no value of these tensors has a magnitude above ``limit``, or is NaN."""
        largest = self.stack.largest
        return all(largest[name][self.place] <= limit for name in names if name in largest)


def _largest(rows: Tensor) -> Tensor:
    # Faster than one pass of `aminmax`, or of `isfinite`; NaN comes through both.
    return torch.maximum(rows.amax(1), -rows.amin(1))
