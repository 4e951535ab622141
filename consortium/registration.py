"""Hospitals become known to the SuperLink: their keys are registered, and the roster says who is who."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from consortium.certificates import HOSPITALS, members
from consortium.members import Hospital
from models.durable import replacing
from models.errors import UserError

ROSTER = "superlink/roster.yaml"
SECONDS = 60.0


def register(folder: Path, connection: str) -> dict[str, int]:
    """Register every hospital that is not on the roster yet; return all node ids by name.

    The roster, ``superlink/roster.yaml``, is what the server binds names and tasks to keys by; it
    is written after each registration, so that an interrupted one goes on where it was.

    Parameters
    ----------
    folder : Path
        Of the consortium.
    connection : str
        The SuperLink's name in Flower's configuration.

    Raises
    ------
    UserError
        There are no hospitals, or the SuperLink does not take a key; with Flower's reason.
    """
    hospitals = members(folder)
    if not hospitals:
        raise UserError(f"{folder / HOSPITALS} holds no hospitals")
    path = folder / ROSTER
    roster: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {"sites": {}}
    for hospital in hospitals:
        if hospital.name not in roster["sites"]:
            roster["sites"][hospital.name] = _registered(folder, hospital, connection)
            with replacing(path) as unfinished:
                unfinished.write_text(yaml.safe_dump(roster, sort_keys=True))
    return {name: int(entry["node-id"]) for name, entry in roster["sites"].items()}


def _registered(folder: Path, hospital: Hospital, connection: str) -> dict[str, str | int]:
    public = folder / HOSPITALS / hospital.name / "supernode.pub"
    told = flower("supernode", "register", str(public), connection)
    kind, key, *_ = public.read_text().split()
    return {
        "task": hospital.task,
        "node-id": int(told["node-id"]),
        "public-key": f"{kind} {key}",
    }


def flower(*command: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Run a command of ``flwr`` and return the JSON that it prints.

    Raises
    ------
    UserError
        It failed; with what it said.
    """
    line = ["flwr", *command, "--format", "json"]
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"`flwr {' '.join(command)}` did not end within {seconds:g} s") from None
    told = _json(done.stdout)
    if told is None or not told.get("success"):
        said = (told or {}).get("error-message") or done.stderr.strip() or done.stdout.strip()
        raise UserError(f"`flwr {' '.join(command)}`: {str(said)[-2000:]}")
    return told


def _json(text: str) -> dict[str, Any] | None:
    """Return the JSON object in what a command printed; some lines before it are for people."""
    begin = text.find("{")
    try:
        told = json.JSONDecoder().raw_decode(text[begin:])[0] if begin >= 0 else None
    except json.JSONDecodeError:
        return None
    return told if isinstance(told, dict) else None
