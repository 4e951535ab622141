"""The environments of other libraries: where their Pythons are, and what is installed there."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flower.processes import REPOSITORY

PLAIN_PEER = "plain"  # the name of the plain loop, which needs what ours needs
_VERSIONS = """
import importlib, importlib.metadata, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


class PeerMissing(RuntimeError):
    """A library is not installed where it was looked for; the text has the lines that install it."""


@dataclass(frozen=True)
class Peer:
    """A library that is played beside ours, in an environment of its own.

    Parameters
    ----------
    name : str
        As ``--peers`` has it; also that of its package, on PyPI and imported.
    option : str
        The option that names its Python.
    needs : tuple of str
        Packages that its programs import besides.
    """

    name: str
    option: str
    needs: tuple[str, ...] = ("torch", "numpy")

    @property
    def lines(self) -> str:
        """The commands that make its environment."""
        python = f"~/{self.name}/bin/python"
        requirements = f"benchmarks/requirements-{self.name}.txt"
        return (
            f"  uv venv --python 3.11 ~/{self.name}\n"
            f"  uv pip install --compile-bytecode --python {python} -r {requirements}\n"
        )

    def versions(self, python: Path) -> dict[str, str]:
        """Return the versions of the library and of what it needs, all imported by ``python``.

        Raises
        ------
        PeerMissing
            There is no such Python, or one of them cannot be imported there.
        """
        command = [str(python), "-E", "-c", _VERSIONS, self.name, *self.needs]
        try:
            done = subprocess.run(
                command, cwd=REPOSITORY, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise PeerMissing(self._missing(python, str(error))) from None
        if done.returncode:
            raise PeerMissing(self._missing(python, done.stderr.strip().rpartition("\n")[2]))
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found

    def _missing(self, python: Path, reason: str) -> str:
        return (
            f"--peers {self.name}: {python} cannot import it ({reason}). Make an environment with it, "
            f"in the project's folder:\n{self.lines}and add {self.option} ~/{self.name}/bin/python"
        )


PEERS = {
    peer.name: peer
    for peer in (
        Peer("pfl", "--pfl-python"),
        Peer("nvflare", "--nvflare-python", ("torch", "torchvision")),
    )
}


@dataclass(frozen=True)
class Found:
    """A Python that has a peer, and the versions there."""

    python: Path
    versions: Mapping[str, str]


def add_peers(
    parser: argparse.ArgumentParser, names: Sequence[str], default: Sequence[str] = ()
) -> None:
    """Add ``--peers`` with a choice of ``names``, and the option of each one's Python."""
    listed = ", ".join(names)
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=names,
        default=list(default),
        metavar="PEER",
        help=f"other libraries to play: {listed} ({' '.join(default) or 'none'})",
    )
    for name in names:
        if name in PEERS:
            what = f"the Python of an environment with benchmarks/requirements-{name}.txt; this one"
            parser.add_argument(PEERS[name].option, type=Path, metavar="PATH", help=what)


def find_peers(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Found]:
    """Return where each library of ``--peers`` is; end with an error where one is missing."""
    found = {}
    for name in dict.fromkeys(options.peers):
        if name not in PEERS:
            continue
        given: Path | None = getattr(options, f"{name}_python")
        python = Path(sys.executable) if given is None else given.expanduser().absolute()
        try:
            found[name] = Found(python, PEERS[name].versions(python))
        except PeerMissing as error:
            parser.error(str(error))
    return found
