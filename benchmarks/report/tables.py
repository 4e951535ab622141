"""Tables of means and standard deviations over seeds, as Markdown for people and JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

UNCOMPILED = (
    "Python's bytecode of the installed packages is not saved here. Each process compiles them anew, "
    "which adds to the time of every start. Run `python -m compileall -q` on the folder of installed "
    "packages once."
)


def versions() -> dict[str, str]:
    """Return the versions of what results depend on; of the installed part of it, without Flower."""
    if find_spec("flwr") is None:  # a machine with a GPU and little else
        names = ("torch", "numpy")
        return {"python": platform.python_version(), **{name: version(name) for name in names}}
    from server_app import report

    return report.versions()


def times(number: int, what: str) -> str:
    """Return ``3 sites`` of 3 and "site", and ``1 site`` of one."""
    return f"{number} {what}{'s' if number != 1 else ''}"


@dataclass(frozen=True)
class Figure:
    """One measured quantity over seeds.

    Parameters
    ----------
    values : tuple of float
        One per seed.
    percent : bool
        Whether it is a share, which is shown as per cent; else it is in a unit of its own.
    """

    values: tuple[float, ...]
    percent: bool = True

    @property
    def mean(self) -> float:
        """The mean."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """The standard deviation of the sample (n - 1); 0 for one value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    def text(self) -> str:
        """Return mean and deviation, a share as per cent: ``98.87 ± 0.12``."""
        scale = 100 if self.percent else 1
        if len(self.values) == 1:
            return f"{scale * self.mean:.2f}"
        return f"{scale * self.mean:.2f} ± {scale * self.deviation:.2f}"


@dataclass
class Table:
    """Rows of figures under named columns.

    Parameters
    ----------
    title : str
        What it shows.
    columns : tuple of str
        Headings, the first one that of the rows' names.
    rows : dict
        Row name to cells: text, or a `Figure`.
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str | Figure | None, ...]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [
            f"**{self.title}**",
            "",
            f"| {' | '.join(self.columns)} |",
            f"|---|{'---:|' * (len(self.columns) - 1)}",
        ]
        for name, cells in self.rows.items():
            lines.append(f"| {name} | {' | '.join(_shown(cell) for cell in cells)} |")
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, every value of every seed included."""
        rows = {
            name: dict(
                zip(
                    self.columns[1:],
                    [
                        {"values": cell.values} if isinstance(cell, Figure) else cell
                        for cell in cells
                    ],
                    strict=True,
                )
            )
            for name, cells in self.rows.items()
        }
        return {"title": self.title, "rows": rows}


def _shown(cell: str | Figure | None) -> str:
    if cell is None:
        return "-"
    return cell if isinstance(cell, str) else cell.text()


def machine() -> dict[str, Any]:
    """Return the machine on which the figures were measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "compiled": compiled("torch"),
    }


def _processor() -> str:
    """Return the name of the processor's model, as far as the system knows it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def compiled(package: str) -> bool:
    """Return whether the bytecode of ``package`` is saved; the package is not imported.

    It is not after ``uv pip install`` without ``--compile-bytecode``, where
    ``PYTHONDONTWRITEBYTECODE`` is set. Each process then compiles all that it imports.
    """
    found = find_spec(package)
    return found is not None and found.cached is not None and Path(found.cached).exists()


def write(
    folder: Path,
    name: str,
    tables: Sequence[Table],
    *,
    command: str,
    notes: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write ``<name>.md`` and ``<name>.json`` into ``folder``, and print the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    measured_on = machine()
    if not measured_on["compiled"]:
        notes = [*notes, UNCOMPILED]
    text = "\n".join([*(table.markdown() for table in tables), *notes]) + "\n"
    (folder / f"{name}.md").write_text(text)
    content = {
        "command": command,
        "versions": versions(),
        "machine": measured_on,
        "tables": [table.to_dict() for table in tables],
        "notes": list(notes),
        **(more or {}),
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"\n{text}\nwritten: {folder / name}.md, .json")
