"""The local state on a site's own disk: personal layers, optimizer state, and the final model."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from client_app.failures import writing
from client_app.node_config import checked_name
from fedstrata.protocol.limits import KNOWN_ROUNDS
from fedstrata.support import tensor_files
from fedstrata.support.errors import UserError, private, private_reason
from models import weights
from models.training.loop import OptimizerState

RECEIVED, FEEDBACK = "received/", "error_feedback/"  # before the names of such tensors in a file
_FILE = re.compile(r"round-(\d{6})\.safetensors")


@dataclass
class LocalState:
    """The tensors that stay at the site after a round.

    Parameters
    ----------
    tensors : dict
        Personal tensors, and integer buffers of exchanged groups, by tensor name.
    optimizer : dict
        Optimizer state of personal parameters: parameter name, then the optimizer's key.
    memory : dict
        The method's own tensors.
    error_feedback : dict
        What coding lost of the updates so far, this one included, by tensor name. It is added to
        the next update if the server has taken this one.
    received : dict
        The layers that the round began with, by tensor name, where those of the next round may
        arrive as differences to them.
    hashes : dict
        Content hash of each group of ``received``.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    optimizer: OptimizerState = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)
    error_feedback: dict[str, Tensor] = field(default_factory=dict)
    received: dict[str, Tensor] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def flat(self) -> dict[str, Tensor]:
        """Return all tensors under one name each."""
        flat = {f"tensor/{name}": t for name, t in self.tensors.items()}
        flat |= {f"memory/{name}": t for name, t in self.memory.items()}
        flat |= {f"{FEEDBACK}{name}": t for name, t in self.error_feedback.items()}
        flat |= {f"{RECEIVED}{name}": t for name, t in self.received.items()}
        for name, state in self.optimizer.items():
            flat |= {f"optimizer/{key}/{name}": t for key, t in state.items()}
        return flat

    @classmethod
    def of_flat(cls, flat: dict[str, Tensor]) -> LocalState:
        """Undo :meth:`flat`; ``error_feedback`` and ``received`` are read where they are needed."""
        state = cls()
        plain = {"tensor": state.tensors, "memory": state.memory}
        for name, tensor in flat.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                key, _, parameter = rest.partition("/")
                state.optimizer.setdefault(parameter, {})[key] = tensor
            elif kind in plain:
                plain[kind][rest] = tensor
            else:
                tensor_name = private(repr(name), "a tensor")
                raise UserError(
                    "a personal file has " + tensor_name + ", which this version does not know"
                )
        return state


class Store(Protocol):
    """Where a site's local states are."""

    def before(self, round_number: int) -> LocalState | None:
        """Return what the latest round before ``round_number`` left, or None at the beginning.

        It is without ``error_feedback`` and ``received``.
        """
        ...

    def save(self, round_number: int, state: LocalState, needed: Collection[int] = ()) -> None:
        """Save what ``round_number`` leaves, in place of what it left at an earlier attempt.

        What the rounds ``needed`` left stays too, however old they are.
        """
        ...


class DiskStore:
    """One file a round under ``<state-dir>/<federation>/sites/<site>/``, the last few kept.

    A round that is sent again starts from the same file as the first time, so it gives the same
    answer. A file is complete before it has its name.
    """

    def __init__(self, state_dir: Path, federation: str, site: str) -> None:
        self.folder = (
            state_dir
            / checked_name(federation, "federation")
            / "sites"
            / checked_name(site, "site")
        )

    def before(self, round_number: int) -> LocalState | None:
        """Return what the latest round before ``round_number`` left, or None at the beginning."""
        earlier = [n for n in self.rounds() if n < round_number]
        if not earlier:
            return None
        with private_reason("the personal layers on the site's disk cannot be read"):
            flat, _ = tensor_files.load(
                self.path(max(earlier)), lambda name: not name.startswith((FEEDBACK, RECEIVED))
            )
        return LocalState.of_flat(flat)

    def error_feedback(self, round_number: int, names: Collection[str]) -> dict[str, Tensor]:
        """Return the error feedback of ``names`` after a round; nothing where it left none."""
        path = self.path(round_number)
        if not path.exists():
            return {}
        with private_reason("what coding has lost so far cannot be read from the site's disk"):
            return _load(path, FEEDBACK, names)

    def save(self, round_number: int, state: LocalState, needed: Collection[int] = ()) -> None:
        """Write the file of the round durably, then remove files that no re-sent round can need.

        Files of later rounds are of a history that the run gave up: it was resumed before them.
        Where nothing stays at the site, nothing is written.

        Raises
        ------
        UserError
            Where it cannot be written; what earlier rounds left is as it was.
        """
        if not state.flat() and not self.rounds():  # nothing stays here, and nothing ever did
            return
        with writing("the personal layers"):
            # Personal layers can say something of the patients: no other user may read them.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            metadata = {"received": json.dumps(state.hashes, sort_keys=True)}
            weights.save(self.path(round_number), state.flat(), metadata)
            # Removed only after the new file is on disk: a crash in between leaves one too many.
            there = self.rounds()
            latest = [number for number in there if number <= round_number][-KNOWN_ROUNDS:]
            for number in set(there) - {*latest, *(n for n in needed if n < round_number)}:
                self.path(number).unlink(missing_ok=True)

    def known_states(self, group: str) -> tuple[str, ...]:
        """Return the content hashes of what the last rounds began with in ``group``, latest first."""
        found = (self._hashes(number).get(group) for number in reversed(self._latest()))
        return tuple(dict.fromkeys(each for each in found if each))

    def received(
        self, group: str, content_hash: str, names: Collection[str]
    ) -> dict[str, Tensor] | None:
        """Return the layers ``names`` that a round began with whose ``group`` has that hash.

        It is None where there is no such round, or one without them. Files that cannot be read are
        skipped.
        """
        for number in reversed(self._latest()):
            if self._hashes(number).get(group) == content_hash:
                found = _load(self.path(number), RECEIVED, names)
                return found if found.keys() == set(names) else None
        return None

    def _latest(self) -> list[int]:
        return self.rounds()[-KNOWN_ROUNDS:]

    def _hashes(self, round_number: int) -> dict[str, str]:
        """Return the content hash of each group that a round began with, where it was kept."""
        try:
            hashes = json.loads(
                tensor_files.read_metadata(self.path(round_number)).get("received", "{}")
            )
        except (UserError, ValueError):  # whoever needs the file itself reports that it is damaged
            return {}
        return {str(group): str(each) for group, each in hashes.items()}

    def deploy(self, model: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write the model that the site is to use, whole, beside the files of the rounds.

        Parameters
        ----------
        model : mapping of str to Tensor
            By the model's names; `models.weights.load` reads them, and so does ``weights=file``.
        metadata : mapping of str to str
            What the model is for.
        """
        with writing("the fine-tuned model"):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            weights.save(self.deployed, model, metadata)

    @property
    def deployed(self) -> Path:
        """Return the file of the model that the site is to use."""
        return self.folder / "deployed.safetensors"

    def rounds(self) -> list[int]:
        """Return the rounds there are files of, ascending."""
        if not self.folder.is_dir():
            return []
        matches = (_FILE.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, round_number: int) -> Path:
        """Return the file of a round."""
        return self.folder / f"round-{round_number:06d}.safetensors"


def _load(path: Path, prefix: str, names: Collection[str]) -> dict[str, Tensor]:
    """Return those of the tensors ``names`` that are in a file under ``prefix``."""
    wanted = {f"{prefix}{name}" for name in names}
    found, _ = tensor_files.load(path, wanted.__contains__)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


class MemoryStore:
    """Has the last round in memory: for a model that is trained alone, in one go."""

    def __init__(self) -> None:
        self.state: LocalState | None = None

    def before(self, round_number: int) -> LocalState | None:
        """Return what was saved last."""
        del round_number
        return self.state

    def save(self, round_number: int, state: LocalState, needed: Collection[int] = ()) -> None:
        """Replace what was saved last."""
        del round_number, needed
        self.state = state
