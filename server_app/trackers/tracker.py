"""What a tracker has to do: begin or go on with a run, take parameters and numbers, end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

Plain = str | int | float | bool


class Tracker(ABC):
    """A place where runs are compared. Any method may raise: the run goes on without.

    Parameters
    ----------
    options : mapping
        ``tracker`` of the configuration, checked.
    run : Path
        The run's folder; its name is the run's.
    """

    module: ClassVar[str] = ""  # what it imports, and the package that has it
    package: ClassVar[str] = ""

    def __init__(self, options: Mapping[str, Any], run: Path) -> None:
        self.options, self.run = options, run

    @classmethod
    @abstractmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise UserError for wrong options."""

    @classmethod
    def missing(cls) -> str:
        """Return the package that is not installed, or "". Nothing is imported."""
        return cls.package if cls.module and find_spec(cls.module) is None else ""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it writes, for the log."""

    @abstractmethod
    def begin(self, known: str, step: int) -> str:
        """Begin a run, or go on with the one that is ``known``; return by what it is known.

        Parameters
        ----------
        known : str
            What `begin` returned before, or "".
        step : int
            The first step that will be written; what was written of it and later is void.
        """

    @abstractmethod
    def parameters(self, values: Mapping[str, Plain]) -> None:
        """Write what the run was made with, once."""

    @abstractmethod
    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of one step; they are kept when this returns."""

    @abstractmethod
    def end(self, state: str) -> None:
        """End with ``complete``, ``stopped`` or ``failed``."""


class NoTracker(Tracker):
    """Writes nothing."""

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Take any options: there are none."""

    @property
    def place(self) -> str:
        """Nowhere."""
        return ""

    def begin(self, known: str, step: int) -> str:
        """Return nothing."""
        return ""

    def parameters(self, values: Mapping[str, Plain]) -> None:
        """Do nothing."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def end(self, state: str) -> None:
        """Do nothing."""
