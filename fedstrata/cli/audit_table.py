"""An audit log as a person reads it: one row a line, and what is wrong with the log below."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedstrata.protocol.limits import printable
from fedstrata.support.audit import Line
from fedstrata.support.audit_check import Checked, read_and_verify
from fedstrata.support.ed25519 import public_keys
from fedstrata.support.errors import UserError

_SHORT = 12  # digits of a hash that a table shows
_LEFT_OUT = ("run", "kind", "round", "site")  # they have columns of their own


def since(text: str) -> datetime:
    """Return a date, or a date and a time, of the command line; UTC where it names no zone."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-11-01") from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def read_log(path: Path, keys: Sequence[Ed25519PublicKey]) -> Checked:
    """Return a log; raise UserError where there is none."""
    try:
        return read_and_verify(path, keys)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_public_keys(paths: Sequence[Path]) -> tuple[Ed25519PublicKey, ...]:
    """Return the public keys in files; raise UserError where one cannot be read."""
    try:
        texts = [path.read_text() for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        where = getattr(error, "filename", None) or paths[0]
        raise UserError(
            f"{where}: no public key can be read there: name it with --public-key"
        ) from None
    return public_keys(texts, "--public-key")


def print_log(log: Checked, *, since: datetime | None, verify: bool, as_json: bool) -> int:
    """Print a log; return the exit status, 1 where it was verified and something is wrong.

    Notes and problems go to standard error where the lines are printed as JSON.
    """
    lines = [line for line in log.lines if since is None or _time(line) >= since]
    for line in lines:
        print(json.dumps(_as_json(line)) if as_json else row(line))
    if not verify:
        return 0
    where = sys.stderr if as_json else sys.stdout
    for note in log.notes:
        print(f"note: {note}", file=where)
    for problem in log.problems:
        print(f"PROBLEM: {printable(problem)}", file=where)
    if not log.problems:
        print(f"{len(log.lines)} lines, nothing is wrong", file=where)
    return 1 if log.problems else 0


def row(line: Line) -> str:
    """Return a line as the row of a table."""
    fields = line.fields
    what = " ".join(str(fields[key]) for key in ("kind", "site") if key in fields)
    if fields.get("round"):
        what += f" round {fields['round']}"
    run = f"run {fields['run']}" if fields.get("run") else ""
    parts = [
        f"{key} {_shown(value)}"
        for key, value in fields.items()
        if key not in _LEFT_OUT and value not in ("", {}, [], 0)
    ]
    time = line.time.partition(".")[0].replace("T", " ")
    text = f"{line.seq:6}  {time}  {line.event:9} {what:28} {run:24} {', '.join(parts)}"
    # What is in the file may not be from us: a terminal gets no control characters of it.
    return printable(text.rstrip())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        if value.keys() == {"bytes", "sha256"}:
            return f"{value['bytes']} bytes {_shown(value['sha256'])}"
        return "; ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    text = str(value)
    is_hash = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:_SHORT] if is_hash else text


def _as_json(line: Line) -> dict[str, Any]:
    return {"seq": line.seq, "time": line.time, "event": line.event, **line.fields}


def _time(line: Line) -> datetime:
    try:
        read = datetime.fromisoformat(line.time)
    except ValueError:  # not written by us: always shown
        return datetime.max.replace(tzinfo=UTC)
    return read if read.tzinfo else read.replace(tzinfo=UTC)
