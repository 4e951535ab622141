"""The local state on a site's own disk: personal layers, optimizer state, and the final model."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from client_app.failures import cause, writing
from client_app.node_config import checked_name
from client_app.set_aside import put_by, remove_repeated, set_aside
from fedstrata.protocol.limits import KNOWN_ROUNDS
from fedstrata.support import tensor_files
from fedstrata.support.durable import PRIVATE_FILE, private_folder
from fedstrata.support.errors import UserError, private
from models import weights
from models.training.loop import OptimizerState

logger = logging.getLogger("flwr")

RECEIVED, FEEDBACK = "received/", "error_feedback/"  # before the names of such tensors in a file
_FILE = re.compile(r"round-(\d{6})\.safetensors")
DURABLE = "durable"  # in a file's metadata: the newest round from which the server might go on then
BEGAN_WITH = "began-with"  # in a file's metadata: of which round the file is that its round read
DATA = "data.sha256"  # what the run's data are
MODEL = "model.txt"  # which of the run's models the site has
MEMORY = "keeps-memory"  # an empty file, there once a method kept tensors of its own


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

    def save(
        self,
        round_number: int,
        state: LocalState,
        needed: Collection[int] = (),
        best: int = 0,
        durable: Sequence[int] = (),
    ) -> None:
        """Save what ``round_number`` leaves, in place of what it left at an earlier attempt.

        What the rounds ``needed`` left stays too, however old they are, what the state after round
        ``best`` was measured with, and what there was after each round of ``durable``, from which the
        server may go on.
        """
        ...


class DiskStore:
    """One file a round under ``<state-dir>/<federation>/sites/<site>/``, the last few kept.

    Where the server does not write a checkpoint each round, those that belong to its checkpoints are
    kept besides. A round that is sent again starts from the same file as the first time, so it gives
    the same answer. A file is complete before it has its name.
    """

    def __init__(self, state_dir: Path, federation: str, site: str) -> None:
        self.folder = (
            state_dir
            / checked_name(federation, "federation")
            / "sites"
            / checked_name(site, "site")
        )

    def before(self, round_number: int) -> LocalState | None:
        """Return what the latest round before ``round_number`` left, or None at the beginning.

        A file that is damaged gives way to that of the round before, and the log names it.

        Raises
        ------
        UserError
            There are files of earlier rounds, and all of them are damaged.
        """
        problem: UserError | None = None
        for number in reversed([n for n in self.rounds() if n < round_number]):
            try:
                flat, _ = tensor_files.load(
                    self.path(number), lambda name: not name.startswith((FEEDBACK, RECEIVED))
                )
                state = LocalState.of_flat(flat)
            except UserError as error:
                logger.error("personal layers of round %d: %s", number, error)
                problem = problem or error
                continue
            if problem is not None:
                logger.error(
                    "round %d begins with the personal layers of round %d, the last that are whole",
                    round_number,
                    number,
                )
            return state
        if problem is None:
            return None
        public = "the personal layers on the site's disk cannot be read"
        raise UserError(private(problem, public)) from problem

    def error_feedback(self, round_number: int, names: Collection[str]) -> dict[str, Tensor]:
        """Return the error feedback of ``names`` after a round; nothing where it left none.

        There is none in a file that is damaged either: it would only have made up for what coding
        lost, and the site goes on without it. The log says so.
        """
        path = self.path(round_number)
        if not path.exists():
            return {}
        try:
            return _load(path, FEEDBACK, names)
        except UserError as error:
            logger.error("what coding has lost so far is not added to the update: %s", error)
            return {}

    def save(
        self,
        round_number: int,
        state: LocalState,
        needed: Collection[int] = (),
        best: int = 0,
        durable: Sequence[int] = (),
    ) -> None:
        """Write the file of the round durably, then remove files that nothing can need any more.

        A state that becomes the best is either the best so far or one that is not measured yet, so
        the file for ``best``, the one after it, which names it, and the latest ones suffice.

        An order of an earlier round gives a history up: the run was resumed before it, or the
        server lies. The files of that round and of later ones are set aside then, for they may be
        the only copy. Where the server had no checkpoint of these rounds yet, and said so in their
        orders, they are put by until they were played again with the same bits.
        Where nothing stays at the site, nothing is written.

        Raises
        ------
        UserError
            Where it cannot be written, or too much is set aside already; what earlier rounds left
            is as it was.
        """
        if not state.flat() and not self.rounds():  # nothing stays here, and nothing ever did
            return
        with writing("the personal layers"):
            private_folder(self.folder)
            self._give_up(round_number)
            metadata = {
                "received": json.dumps(state.hashes, sort_keys=True),
                BEGAN_WITH: str(self._latest_before(round_number)),
            }
            saved = [number for number in durable if number < round_number]
            if saved:
                metadata[DURABLE] = str(max(saved))
            if state.memory and not self.has_kept_memory:
                (self.folder / MEMORY).touch(PRIVATE_FILE)
            weights.save(self.path(round_number), state.flat(), metadata)
            remove_repeated(self.folder, self.path(round_number))
            # Removed only after the new file is on disk: a crash in between leaves one too many.
            there = self.rounds()
            latest = there[-KNOWN_ROUNDS:]
            kept = {*latest, *(n for n in needed if n < round_number)}
            kept |= {self._latest_before(number + 1) for number in saved}
            if best:
                kept |= {self._latest_before(best + 1), *[n for n in there if n > best][:1]}
            for number in set(there) - kept:
                self.path(number).unlink(missing_ok=True)

    def _give_up(self, round_number: int) -> None:
        """Make way for ``round_number`` where it is before the last round: that and later ones go.

        The last round itself may be ordered again; the file of the round before it stays.
        """
        given_up = [number for number in self.rounds() if number >= round_number]
        if not given_up or given_up == [round_number]:
            return
        files = [self.path(number) for number in given_up]
        again = self._is_played_again(round_number, given_up[-1])
        if not (again and put_by(self.folder, files)):
            set_aside(self.folder, files, round_number)

    def _is_played_again(self, round_number: int, last: int) -> bool:
        """Return whether the server had no checkpoint of these rounds yet when ``last`` was ordered."""
        try:
            durable = tensor_files.read_metadata(self.path(last)).get(DURABLE)
            return durable is not None and int(durable) < round_number
        except (UserError, ValueError):  # it is damaged
            return False

    def require(self, round_number: int, *, lost: bool = False) -> None:
        """Raise UserError unless the layers that round ``round_number`` began with are there.

        Without this, `before` gives those of an earlier round for files that are gone. Where there
        is no file at all, ``lost`` says that there was one.
        """
        number = self._latest_before(round_number)
        later = next((n for n in self.rounds() if n >= round_number), None)
        try:
            began_with = -1 if lost and not number else number
            if later is not None:
                began_with = int(tensor_files.read_metadata(self.path(later)).get(BEGAN_WITH, -1))
            if number:
                tensor_files.load(self.path(number), lambda name: False)
        except (UserError, ValueError):
            began_with = -1
        if began_with != number:
            raise UserError(
                f"the personal layers that belong to the state after round {round_number - 1} are no "
                "longer on this site's disk"
            )

    def _latest_before(self, round_number: int) -> int:
        """Return the last round before ``round_number`` that there is a file of, or 0."""
        return max((n for n in self.rounds() if n < round_number), default=0)

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
                try:
                    found = _load(self.path(number), RECEIVED, names)
                except UserError as error:
                    logger.error("what the site received in round %d: %s", number, error)
                    continue
                if found.keys() == set(names):
                    return found
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
        if not isinstance(hashes, dict):
            return {}
        return {str(group): str(each) for group, each in hashes.items()}

    @property
    def deployed(self) -> Path:
        """Return the file of the model that the site is to use."""
        return self.folder / "deployed.safetensors"

    def check_data(self, digest: str) -> None:
        """Raise UserError for other data than those that `note_data` noted for this run.

        A resumed run goes on with personal layers of the data that it began with, and its
        training and test examples must be the same ones.
        """
        if self.has_other_data(digest):
            raise UserError(
                "the data here are not those with which this run began: other files, another "
                "number of sites, other shares, or another version of a library that reads them. "
                "Put back what was there, or start a new run"
            )

    def has_other_data(self, digest: str) -> bool:
        """Return whether `note_data` noted other data than those for this run."""
        return self._noted_data() not in ("", digest)

    @property
    def has_kept_memory(self) -> bool:
        """Whether the method ever kept tensors of its own here, also if they are gone."""
        return (self.folder / MEMORY).exists()

    @property
    def has_noted_data(self) -> bool:
        """Whether `note_data` noted this run's data, as every round does."""
        return bool(self._noted_data())

    def note_data(self, digest: str) -> None:
        """Note what this run's data are, unless it is noted already."""
        self._note(DATA, digest)

    def check_model(self, own: str) -> None:
        """Raise UserError for another of the run's models than the one that `note_model` noted."""
        before = self._noted(MODEL)
        if before and before != own:
            raise UserError(
                f"this site began the run with the model {before!r}, of which it has the personal "
                f"layers, and its model is now {own!r}: write model: {before} again, or start a new run"
            )

    def note_model(self, own: str) -> None:
        """Note which of the run's models the site has, where it offers several."""
        if own:
            self._note(MODEL, own)

    def _note(self, name: str, text: str) -> None:
        if self._noted(name):
            return
        # Lost in a crash, it is written again: not worth an fsync at each of many sites.
        with writing("the note of this run's data"):
            private_folder(self.folder)
            path = self.folder / name
            path.touch(PRIVATE_FILE)
            path.write_text(text)

    def _noted_data(self) -> str:
        return self._noted(DATA)

    def _noted(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise UserError(f"the note of this run's data cannot be read: {cause(error)}") from None

    def rounds(self) -> list[int]:
        """Return the rounds there are files of, ascending."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        matches = map(_FILE.fullmatch, names)
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

    def save(
        self,
        round_number: int,
        state: LocalState,
        needed: Collection[int] = (),
        best: int = 0,
        durable: Sequence[int] = (),
    ) -> None:
        """Replace what was saved last."""
        del round_number, needed, best, durable
        self.state = state
