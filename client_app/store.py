"""What a site keeps on its own disk: personal layers and optimiser state, and the final model."""

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

RECEIVED, OWED = "received/", "error_feedback/"  # before the names of such tensors in a file
_FILE = re.compile(r"round-(\d{6})\.safetensors")


@dataclass
class LocalState:
    """The tensors that stay at the site after a round.

    Parameters
    ----------
    tensors : dict
        Personal tensors, and integer buffers of exchanged groups, by tensor name.
    optimizer : dict
        Optimiser state of personal parameters: parameter name, then the optimiser's key.
    memory : dict
        The method's own tensors.
    error_feedback : dict
        What coding lost of the updates so far, this one included, by tensor name: it is added to
        the next, if the server has taken this one.
    received : dict
        The layers that the round began with, by tensor name, where the next may arrive as
        differences to them.
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
        flat |= {f"{OWED}{name}": t for name, t in self.error_feedback.items()}
        flat |= {f"{RECEIVED}{name}": t for name, t in self.received.items()}
        for name, state in self.optimizer.items():
            flat |= {f"optimizer/{key}/{name}": t for key, t in state.items()}
        return flat

    @classmethod
    def of_flat(cls, flat: dict[str, Tensor]) -> LocalState:
        """Undo :meth:`flat`, but for ``error_feedback`` and ``received``, which are read apart."""
        kept = cls()
        plain = {"tensor": kept.tensors, "memory": kept.memory}
        for name, tensor in flat.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                key, _, parameter = rest.partition("/")
                kept.optimizer.setdefault(parameter, {})[key] = tensor
            elif kind in plain:
                plain[kind][rest] = tensor
            else:
                known_states = private(repr(name), "a tensor")
                raise UserError(
                    "a personal file holds " + known_states + ", which this version does not know"
                )
        return kept


class Store(Protocol):
    """Where a site's keepsakes are."""

    def before(self, round_number: int) -> LocalState | None:
        """Return what the latest round before ``round_number`` left, or None at the beginning.

        Without ``error_feedback`` and ``received``.
        """
        ...

    def save(self, round_number: int, kept: LocalState, needed: Collection[int] = ()) -> None:
        """Keep what ``round_number`` leaves, in place of what it left at an earlier attempt.

        What the rounds ``needed`` left is kept too, however old they are.
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
                self.path(max(earlier)), lambda name: not name.startswith((OWED, RECEIVED))
            )
        return LocalState.of_flat(flat)

    def error_feedback(self, round_number: int, names: Collection[str]) -> dict[str, Tensor]:
        """Return the error feedback of ``names`` after a round; nothing where it left none."""
        path = self.path(round_number)
        if not path.exists():
            return {}
        with private_reason("what coding has lost so far cannot be read from the site's disk"):
            return _load(path, OWED, names)

    def save(self, round_number: int, kept: LocalState, needed: Collection[int] = ()) -> None:
        """Write the file of the round durably, then drop files that no re-sent round can need.

        Those of later rounds are of a history that the run gave up: it was resumed before them.
        Where nothing stays at the site, nothing is written.

        Raises
        ------
        UserError
            Where it cannot be written; what earlier rounds left is as it was.
        """
        if not kept.flat() and not self.rounds():  # nothing stays here, and nothing ever did
            return
        with writing("the personal layers"):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            told = {"received": json.dumps(kept.hashes, sort_keys=True)}
            weights.save(self.path(round_number), kept.flat(), told)
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

        None where there is no such round, or one without them. Files that cannot be read are
        passed over.
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
            told = json.loads(
                tensor_files.read_metadata(self.path(round_number)).get("received", "{}")
            )
        except (UserError, ValueError):  # it is told of where it is needed
            return {}
        return {str(group): str(each) for group, each in told.items()}

    def deploy(self, model: Mapping[str, Tensor], told: Mapping[str, str]) -> None:
        """Write the model that the site is to use, whole, beside the files of the rounds.

        Parameters
        ----------
        model : mapping of str to Tensor
            By the model's names; `models.weights.load` reads them, and so does ``weights=file``.
        told : mapping of str to str
            What the file is of.
        """
        with writing("the fine-tuned model"):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            weights.save(self.deployed, model, told)

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
    """Keeps the last round in memory: for a model that is trained alone, in one go."""

    def __init__(self) -> None:
        self.kept: LocalState | None = None

    def before(self, round_number: int) -> LocalState | None:
        """Return what was saved last."""
        del round_number
        return self.kept

    def save(self, round_number: int, kept: LocalState, needed: Collection[int] = ()) -> None:
        """Keep ``kept``."""
        del round_number, needed
        self.kept = kept
