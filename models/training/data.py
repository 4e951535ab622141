"""The examples as training sees them: inputs by index, splits with labels, the data of a site."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.protocol.task_kinds import CLASSES, NUMBER, ONE_CLASS_EACH, TaskKind
from models.preprocessing import Preprocessing

Counts = Mapping[str, Mapping[str, int]] | Mapping[str, int]

Labels = NDArray[Any]
"""What is to be predicted, by kind of task; see `Split`."""


class Inputs(Protocol):
    """Model inputs by index; an index always gives the same input."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the inputs at ``indices``, shape ``(b, *input_shape)``, on their own device.

        float32 numbers, or int64 token ids; the same for all batches of a data set.
        """
        ...

    def digest(self) -> str:
        """Return a hex SHA-256 that changes when any input or its preparation changes."""
        ...


@dataclass(frozen=True)
class ArrayInputs:
    """Inputs in memory: images as uint8 ``(n, h, w, c)``, or features as float32 ``(n, d)``.

    uint8 images become float32 ``(b, c, h, w)`` in [0, 1], then ``(x - mean) / std`` per channel;
    float32 features pass ``(x - mean) / std`` alone.

    Parameters
    ----------
    values : NDArray
        uint8 of shape ``(n, h, w, c)`` or float32 of shape ``(n, d)``.
    mean, std : tuple of float
        One number for all, or one per channel (images) or per column (features).
    """

    values: NDArray[np.uint8] | NDArray[np.float32]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the inputs at ``indices``: float32, ``(b, c, h, w)`` or ``(b, d)``."""
        chosen = torch.from_numpy(np.ascontiguousarray(self.values[indices]))
        mean, std = self._scale
        if chosen.dtype == torch.uint8:
            chosen = chosen.permute(0, 3, 1, 2).float().div_(255.0)
            mean, std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        elif self._as_they_are:
            return chosen
        return ((chosen - mean) / std).contiguous()

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean), torch.tensor(self.std)

    @cached_property
    def _as_they_are(self) -> bool:
        return not any(self.mean) and all(each == 1 for each in self.std)

    def digest(self) -> str:
        """Return the SHA-256 of the values, their shape and dtype, and the normalization.

        It is computed once, and from then on the values are read-only.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # The digest is the key of cached features: values that change would be given stale ones.
        self.values.flags.writeable = False
        seen = hashlib.sha256(np.ascontiguousarray(self.values).tobytes())
        seen.update(repr((self.values.shape, str(self.values.dtype), self.mean, self.std)).encode())
        return seen.hexdigest()


@dataclass(frozen=True)
class Subset:
    """Some rows of other inputs, without a copy.

    Parameters
    ----------
    inputs : Inputs
        The whole.
    rows : NDArray[np.int64]
        Indices into the whole, shape ``(n,)``: example ``i`` here is example ``rows[i]`` there.
    """

    inputs: Inputs
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the inputs at ``indices`` of the subset, as the whole gives them."""
        return self.inputs.batch(self.rows[indices])

    def digest(self) -> str:
        """Return a SHA-256 of the digest of the whole and the rows."""
        # The prefix keeps it different from the digest of the whole, even for no rows at all.
        seen = hashlib.sha256(f"rows of {self.inputs.digest()}\n".encode())
        seen.update(self.rows.astype("<i8").tobytes())
        return seen.hexdigest()


@dataclass(frozen=True)
class Split:
    """Inputs, each with what is to be predicted of it.

    Parameters
    ----------
    inputs : Inputs
        The examples, indexable.
    labels : NDArray
        Class indices, int64 ``(n,)``. Of ``labels``: 0, 1 or NaN, float32 ``(n, C)``. Of
        ``number``: in their own units or NaN, float32 ``(n, K)``. NaN where it is not known.
    """

    inputs: Inputs
    labels: Labels

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise ValueError(f"{len(self.inputs)} inputs but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Return the examples at ``rows``, int64 of shape ``(m,)``, in that order."""
        return Split(Subset(self.inputs, rows), self.labels[rows])


@dataclass(frozen=True)
class Places:
    """Where the examples of a split stand in the site's files; it never leaves the site.

    Parameters
    ----------
    files : tuple of Path
        One per example.
    rows : tuple of int
        The line of a CSV file, the row of another table, the picture of a file with several.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class SiteData:
    """The data of one site: its name, one task, its classes, and three splits.

    Parameters
    ----------
    site : str
        The site's name.
    task : str
        The task's name; sites with the same task average their ``task`` group.
    classes : tuple of str
        Names of the outputs in order: of the classes, the labels, or the numbers.
    input_shape : tuple of int
        Shape of one input, ``(c, h, w)``, ``(d,)``, or ``(length,)`` of token ids.
    train, validation, test : Split
        Disjoint; test is never used to choose anything.
    kind : TaskKind
        What is predicted.
    value_range : tuple of float or None
        The values in the site's files that become 0 and 1; None where data have no such scale.
    source : str
        Which domain, hospital, file or subject a site of a simulation is; empty where it is none.
    notes : tuple of str
        How the data of a site of a simulation were read, for its log; empty at a deployed site.
    preprocessing : Preprocessing or None
        What becomes of a file before the network takes it, as a model's card has it.
    test_places : Places or None
        Where the test examples are; None where they stand in no file of their own.
    """

    site: str
    task: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    train: Split
    validation: Split
    test: Split
    kind: TaskKind = ONE_CLASS_EACH
    value_range: tuple[float, float] | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    test_places: Places | None = None

    def counts(self) -> Counts:
        """Return the examples of each split by class, or in all where there are no classes.

        Of labels, how many examples have each.
        """
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if self.kind.name == NUMBER:
            return {name: len(split) for name, split in splits.items()}
        return {
            name: dict(zip(self.classes, map(int, self._by_class(split)), strict=True))
            for name, split in splits.items()
        }

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of all inputs and labels of the three splits, in their order, and of the task."""
        seen = hashlib.sha256(repr((self.task, self.classes, self.kind)).encode())
        for split in (self.train, self.validation, self.test):
            seen.update(split.inputs.digest().encode())
            seen.update(np.ascontiguousarray(split.labels).tobytes())
        return seen.hexdigest()

    def _by_class(self, split: Split) -> NDArray[np.int64]:
        if self.kind.name == CLASSES:
            return np.bincount(split.labels, minlength=len(self.classes))
        held: NDArray[np.int64] = (split.labels == 1).sum(axis=0)
        return held
