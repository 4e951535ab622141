"""progress.json of a run's folder: where the run is now, as its ServerApp writes it down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from fedstrata.support.durable import PRIVATE_FILE
from fedstrata.support.errors import UserError

FILE = "progress.json"
MOST_BYTES = 64_000_000  # that are read of such a file
RunState = Literal[
    "waiting", "running", "evaluating", "fine-tuning", "complete", "failed", "stopped"
]
ENDED = ("complete", "failed", "stopped")
SiteState = Literal[
    "waiting",
    "working",
    "answered",
    "trained",
    "late",
    "refused",
    "absent",
    "closed",
    "waiting for approval",
]
# How a hospital's own process begins its reasons for "not now".
APPROVAL, CLOSED = "waiting for approval", "training may begin here at"


class SiteProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What one site does now, or did last.

    Parameters
    ----------
    task : str
        Its task, with its model where sites have different networks (``grade/edge``); "" where it
        never joined.
    state : str
        ``working`` since it was asked, ``answered`` until its answer counts, ``trained`` when it
        does; ``closed`` outside its own hours.
    reason : str
        Why it is late, refused, absent or closed, or what it waits for.
    """

    task: str
    state: SiteState
    reason: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run is.

    Parameters
    ----------
    state : str
        What the run does; ``stopped`` is by a person.
    reason : str
        Why it failed or was stopped, or what it waits for.
    round : int
        The round that is played, or was last; 0 before the first.
    rounds : int
        How many there will be.
    complete : int
        How many are complete; the checkpoint may be of an earlier one (``strategy.checkpoint_every``).
    began, updated : float
        Unix seconds of this start of the ServerApp, and of this file.
    seconds_left : float or None
        Until the end of the run, estimated; None where it is not known.
    sites : dict of str to SiteProgress
        By name.
    bytes_down, bytes_up : int
        Payload of all complete rounds, to the sites and from them.
    alone : dict of str to float
        By site, the leading measure of the site trained alone, where it was trained before.
    """

    state: RunState
    reason: str = ""
    round: int = 0
    rounds: int = 0
    complete: int = 0
    began: float = 0.0
    updated: float = 0.0
    seconds_left: float | None = None
    sites: dict[str, SiteProgress] = {}
    bytes_down: int = 0
    bytes_up: int = 0
    alone: dict[str, float] = {}

    @property
    def ended(self) -> bool:
        """Whether the run is over, well or badly."""
        return self.state in ENDED


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace progress.json of a run's folder: readers see the old or the new one.

    It is not synced to the disk: after a crash of the machine nobody needs it.
    """
    unfinished = folder / f".{FILE}.tmp"
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(progress))
    unfinished.replace(folder / FILE)


def read_progress(folder: Path) -> Progress | None:
    """Return progress.json of a run's folder, or None where there is none.

    Raises
    ------
    UserError
        It cannot be read.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        return msgspec.json.decode(content, type=Progress)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read: {error}; delete it, the run itself does not need it"
        ) from None


def state_of_missed(what: SiteState, reason: str) -> SiteState:
    """Return what a site that was refused or is absent waits for, where its reason says it."""
    if reason.startswith(APPROVAL):
        return "waiting for approval"
    return "closed" if reason.startswith(CLOSED) else what
