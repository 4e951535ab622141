"""What looks at a run's complete rounds and at the sites' personal layers all the time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fault_injection.injector import round_number
from benchmarks.fault_injection.plan import SITES
from benchmarks.fault_injection.testbed import ROUNDS


@dataclass
class Watcher:
    """Notes each complete round of ``run`` and each site's layers below ``states``.

    A complete file may be deleted when it is old, but it may never change: a round that is repeated,
    because it was not complete, gives the same bits.
    """

    run: Path
    states: Path
    ended: threading.Event = field(default_factory=threading.Event)
    newest: int = 0
    rounds: dict[int, Any] = field(default_factory=dict)
    saved: set[int] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Look until `ended` is set, and once more then."""
        while not self.ended.wait(0.05):
            self.look()
        self.look()

    def look(self) -> None:
        """Note what exists now, and what has changed or vanished since the last look."""
        rounds = sorted((self.run / "checkpoints").glob("round-*"))
        newest = max((round_number(path.name) for path in rounds), default=0)
        if newest < self.newest:
            self.broken.append(f"round {self.newest} was complete, and now it is {newest}")
        self.newest = max(self.newest, newest)
        with contextlib.suppress(FileNotFoundError):  # before round 1
            self._note_history((self.run / "checkpoints" / "history.jsonl").read_text())
        for folder in rounds:
            with contextlib.suppress(FileNotFoundError):  # deleted just now, since it is old
                self._compare(folder / "state.safetensors", folder.name)
                self.saved.add(round_number(folder.name))
        for path in self.states.glob(f"*/state/{self.run.name}-*/sites/*/round-*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                self._compare(path, f"{path.parent.name}'s personal layers of {path.stem}")

    def _note_history(self, text: str) -> None:
        """Note the records; those that were noted before must be the same."""
        for line in text.split("\n")[:-1]:  # the last one is being written
            record = json.loads(line)
            if self.rounds.setdefault(record["round"], record) != record:
                self.broken.append(f"what happened in round {record['round']} has changed")

    def _compare(self, path: Path, what: str) -> None:
        """Note the digest of a file; where it was noted before, it must be the same."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.files.setdefault(what, digest) != digest:
            self.broken.append(f"{what} have changed")

    def check_results(self, results: dict[str, Any]) -> None:
        """Compare the results with what was seen during the run."""
        for record in results["rounds"]:
            if self.rounds.get(record["round"], record) != record:
                self.broken.append(f"results.json reports round {record['round']} differently")
        if missed := set(range(1, ROUNDS + 1)) - self.saved:
            self.broken.append(f"nobody saw the checkpoints of rounds {sorted(missed)}")
        for site in SITES:
            saved = [round_number(what) for what in self.files if what.startswith(f"{site}'s")]
            took_part = [r["round"] for r in results["rounds"] if site in r["sites"]]
            if max(saved, default=0) < max(took_part, default=0):
                self.broken.append(
                    f"{site} has no personal layers of the last round it took part in"
                )
