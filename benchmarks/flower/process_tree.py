"""Which processes live on this machine, who started them, and what they carry, from /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Running:
    """A living process; another one could get its pid after its end, but not its start time."""

    pid: int
    started: int = field(repr=False)  # clock ticks since the machine started
    parent: int = field(compare=False)
    session: int = field(compare=False)


def running() -> Iterator[Running]:
    """Yield each living process; where there is no /proc, none: process groups must do there."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name of the program stands in brackets first, and may have spaces in it.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                yield Running(int(folder.name), int(fields[19]), int(fields[1]), int(fields[3]))


def descendants(leader: int, word: str = "") -> list[int]:
    """Return the living descendants of a process whose command line contains ``word``."""
    alive = list(running())
    family = {leader}
    grown = True
    while grown:
        more = {p.pid for p in alive if p.parent in family}
        grown = not more <= family
        family |= more
    return sorted(pid for pid in family - {leader} if word in command_line(pid))


def command_line(pid: int) -> str:
    """Return the command line of a process; empty where it has ended."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return words.decode(errors="replace")
    return ""


def has_variable(pid: int, assignment: str) -> bool:
    """Return whether a process was started with ``NAME=value`` in its environment."""
    with contextlib.suppress(OSError):
        return assignment.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def memory_of(pid: int) -> float:
    """Return the bytes of a process, with its part of what it shares (PSS); 0 where it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024.0 * int(line.split()[1])
    return 0.0


def processor_of(pid: int) -> float:
    """Return the processor seconds of a process and its ended children; 0 where it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0
