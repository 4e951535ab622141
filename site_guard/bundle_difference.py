"""How one app bundle differs from another: files, and lines in them."""

from __future__ import annotations

import difflib
import io
import zipfile
import zlib
from dataclasses import dataclass

from fedstrata.protocol.limits import printable
from fedstrata.support.errors import UserError

MOST_UNPACKED = 100_000_000  # bytes of a bundle's files
MOST_LINES = 20_000  # of a file; a longer one is only said to be changed
IGNORED = ".info/CONTENT"  # Flower's own list of the files, with their hashes


@dataclass(frozen=True)
class Change:
    """One file that differs.

    Parameters
    ----------
    path : str
        Inside the bundle.
    how : str
        ``new``, ``gone`` or ``changed``.
    added, removed : int
        Lines; 0 for what is no text.
    """

    path: str
    how: str
    added: int
    removed: int

    def __str__(self) -> str:
        return f"{self.how:8}{printable(self.path)[:120]}  +{self.added} -{self.removed}"


def changes(before: bytes, after: bytes) -> list[Change]:
    """Return what differs between two bundles, by path; UserError where one cannot be read."""
    old, new = _files(before), _files(after)
    found = []
    for path in sorted(old.keys() | new.keys()):
        one, other = old.get(path), new.get(path)
        if one == other:
            continue
        how = "new" if one is None else "gone" if other is None else "changed"
        found.append(Change(path, how, *_lines(one or b"", other or b"")))
    return found


def diff(before: bytes, after: bytes, path: str) -> list[str]:
    """Return the lines of a unified diff of one file of two bundles, printable."""
    old, new = _files(before).get(path, b""), _files(after).get(path, b"")
    lines = difflib.unified_diff(_text(old), _text(new), "before", "after", lineterm="")
    return [printable(line) for line in lines]


def _files(bundle: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if sum(entry.file_size for entry in entries) > MOST_UNPACKED:
                raise UserError(f"the bundle has more than {MOST_UNPACKED} bytes unpacked")
            if len({entry.filename for entry in entries}) < len(entries):
                raise UserError("the bundle has two files of one name")
            return {
                entry.filename: archive.read(entry)
                for entry in entries
                if entry.filename != IGNORED
            }
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise UserError(f"the bundle cannot be read: {type(error).__name__}") from None


def _lines(one: bytes, other: bytes) -> tuple[int, int]:
    """Return how many lines were added and removed."""
    old, new = _text(one), _text(other)
    if len(old) > MOST_LINES or len(new) > MOST_LINES:
        return 0, 0
    compared = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
    added = sum(line.startswith("+") for line in compared)
    return added, sum(line.startswith("-") for line in compared)


def _text(data: bytes) -> list[str]:
    try:
        return data.decode().splitlines()
    except UnicodeDecodeError:
        return []
