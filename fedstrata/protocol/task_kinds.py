"""What a task predicts: one of several classes, several labels at once, or numbers."""

from __future__ import annotations

from dataclasses import dataclass

from fedstrata.support.errors import UserError, nearest

CLASSES, LABELS, NUMBER = "classes", "labels", "number"
KINDS = (CLASSES, LABELS, NUMBER)
LOSSES = ("mse", "huber")


@dataclass(frozen=True)
class TaskKind:
    """What the outputs of a task's network mean, and how they are trained.

    Parameters
    ----------
    name : str
        - ``classes``: exactly one of C holds; int64 class indices ``(n,)``.
        - ``labels``: any of C may hold; float32 ``(n, C)`` of 0 and 1, NaN where it is not known.
        - ``number``: K numbers; float32 ``(n, K)`` in their own units, NaN where not known.
    loss : str
        Of numbers: ``mse`` or ``huber``; not used by the other kinds.
    mean, std : tuple of float
        Of numbers, one of each per output: the network predicts ``(target - mean) / std``. All
        sites of a task must have the same. Empty: 0 and 1.
    unit : str
        Of numbers, for tables: such as ``years``.
    """

    name: str = CLASSES
    loss: str = "mse"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise UserError(
                f"there is no kind of task {self.name!r}: {', '.join(KINDS)} "
                f"(nearest: {nearest(self.name, KINDS)})"
            )
        if self.loss not in LOSSES:
            raise UserError(f"the loss of numbers is one of {', '.join(LOSSES)}, not {self.loss!r}")
        if len(self.mean) != len(self.std) or any(not each > 0 for each in self.std):
            raise UserError("mean and std of numbers: as many of each, and every std above 0")


ONE_CLASS_EACH = TaskKind()
