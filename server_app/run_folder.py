"""A run's folder: configuration, one checkpoint a round, results; durable before it is acknowledged."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from fedstrata.protocol.plan import AGREED_LATER, Plan
from fedstrata.runs.folder import CHECKPOINTS, checkpoint_rounds
from fedstrata.support import checksums
from fedstrata.support.durable import PRIVATE_FILE, private_folder, replacing_private, sync
from fedstrata.support.errors import UserError
from server_app.history_file import NAME as HISTORY
from server_app.history_file import HistoryFile, PlainRecord

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("flwr")
KEPT = 3
LOCK_PATIENCE = 30.0  # seconds for a ServerApp whose SuperLink died to end
ID_BYTES = 4  # of the random part of a federation's name
_MAY_CHANGE = (
    *(f"strategy.{key}" for key in ("deadline", "join_timeout", "give_up", "min_sites", "sites")),
    *(f"strategy.{key}" for key in ("poll", "final_timeout", "on_site_error")),
    *(f"deployment.{key}" for key in ("epochs", "groups", "lr_factor")),  # after the last round
    *(f"cohort.{key}" for key in ("sites", "batched")),  # which node holds a site
    "choose.patience",
    "cross_site",
    *(
        f"tracker.{key}"
        for key in ("name", "folder", "uri", "experiment", "project", "entity", "mode")
    ),
    "keep_models",
    "keep_models_mb",
    "public_models",
    "compare.target",
    "baselines.reuse",
)


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it is read back.

    Parameters
    ----------
    round : int
        The last round that is complete.
    states : dict
        Scope key to tensors by name.
    optimizers : dict
        Scope key to the aggregator's own tensors.
    history : list
        The records of all rounds so far, as plain data.
    published : dict
        Scope key to the states that sites know, for groups that travel to them as differences.
    """

    round: int
    states: dict[str, dict[str, Tensor]]
    optimizers: dict[str, dict[str, Tensor]]
    history: list[dict[str, Any]]
    published: dict[str, dict[str, Tensor]] = field(default_factory=dict)


class RunFolder:
    """``<output-dir>/<run>``.

    Parameters
    ----------
    path : Path
        The run's folder; its name is the run's.
    chosen : bool
        Whether a person chose the name of this new run; those are used again.
    """

    def __init__(self, path: Path, *, chosen: bool = False) -> None:
        self.path = path
        self._chosen = chosen
        self._history = HistoryFile(path / CHECKPOINTS / HISTORY, path / "results.json")

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @cached_property
    def federation(self) -> str:
        """The name under which the sites keep what is theirs, and no other run of this name did."""
        if self.has_begun:
            return str(self.begun().get("federation", self.name))
        return f"{self.name}-{secrets.token_hex(ID_BYTES)}" if self._chosen else self.name

    def begin(
        self, config: dict[str, Any], experiment: str, given: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what the run is; raise UserError where another began here.

        ``given`` is what `fedstrata run --resume` gives again: overrides, data-root, nodes.
        """
        if self.has_begun:
            raise UserError(f"output-dir: another run has just begun in {self.path}; resume it")
        content: dict[str, Any] = {"experiment": experiment, "config": config, "weights": ""}
        content |= {"federation": self.federation, "given": dict(given or {})}
        self._write_begun(content)

    def _write_begun(self, content: dict[str, Any]) -> None:
        write_json(self.path / "run.json", checksums.with_checksum(content))

    @contextmanager
    def written_here(self) -> Iterator[None]:
        """Make the folder, and let nobody else write into it during the block.

        Raises
        ------
        UserError
            Where it cannot be made, or another ServerApp writes there and did not end within
            ``LOCK_PATIENCE`` seconds.
        """
        try:
            private_folder(self.path)
            lock = os.open(self.path / ".lock", os.O_WRONLY | os.O_CREAT, PRIVATE_FILE)
            file = os.fdopen(lock, "w")
        except OSError as error:
            raise UserError(f"output-dir: {self.path} cannot be made: {error}") from None
        with file:
            deadline = time.monotonic() + LOCK_PATIENCE
            while not _locked(file):
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"output-dir: another ServerApp writes into {self.path}; let that run end, "
                        "or stop it with `flwr stop`, before this one goes on with it"
                    )
                time.sleep(0.1)
            yield

    def note_weights(self, plan: Plan) -> None:
        """Write down the checkpoint, or the checkpoints by model, that the run starts from.

        Raises
        ------
        UserError
            Where a resumed run began from another one.
        """
        content = self.begun()
        before = content.get("starts") or content.get("weights")
        now = plan.starts or plan.weights
        if before and before != now:
            raise UserError(
                f"resume: the run began from the pre-trained weights {_named(before)}, "
                f"now there are {_named(now)}"
            )
        if before != now:
            several = {"starts": plan.starts} if plan.starts else {}
            self._write_begun({**content, "weights": plan.weights, **several})

    def note_agreed(self, plan: Plan) -> None:
        """Write down scale and categories on which the sites agreed; a resumed run keeps them."""
        agreed = {name: getattr(plan, name) for name in AGREED_LATER}
        if agreed := {name: value for name, value in agreed.items() if value is not None}:
            self._write_begun({**self.begun(), **agreed})

    @property
    def has_begun(self) -> bool:
        """Whether a run is written down here."""
        return (self.path / "run.json").exists()

    def begun(self) -> dict[str, Any]:
        """Return what is written down of the run: experiment, config, weights.

        Raises
        ------
        UserError
            It cannot be read, or is not as it was written.
        """
        path = self.path / "run.json"
        try:
            content = checksums.checked(json.loads(path.read_text()))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"resume: {path} cannot be read: {error}; copy it back from a backup, or start a "
                "new run"
            ) from None
        if not isinstance(content.get("config"), dict):
            raise UserError(f"resume: {path} is not one of a run")
        return content

    def save(
        self,
        round_number: int,
        states: dict[str, dict[str, Tensor]],
        optimizers: dict[str, dict[str, Tensor]],
        history: list[dict[str, Any]],
        published: dict[str, dict[str, Tensor]] | None = None,
        *,
        best: Collection[int] = (),
    ) -> None:
        """Write the checkpoint of a round: complete under its name, or not there at all.

        The last ``KEPT`` stay, and those of the rounds ``best``.
        Random numbers are functions of the run's seed and the round, so no state of theirs is here.
        """
        from models import weights

        final = self._checkpoint(round_number)
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        private_folder(temporary)
        kinds = {"state": states, "optimizer": optimizers, "published": published or {}}
        flat = {
            f"{kind}/{key}//{name}": tensor
            for kind, groups in kinds.items()
            for key, group in groups.items()
            for name, tensor in group.items()
        }
        weights.save(temporary / "state.safetensors", flat, {"round": str(round_number)})
        content = {"round": round_number, "history": self._history.write(history)}
        write_json(temporary / "round.json", checksums.with_checksum(content))
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(final.parent)
        for number in set(self.rounds()[:-KEPT]).difference(best):
            shutil.rmtree(self._checkpoint(number), ignore_errors=True)

    def rounds(self) -> list[int]:
        """Return the rounds that there are checkpoints of, ascending."""
        return checkpoint_rounds(self.path)

    def latest(self) -> Saved | None:
        """Read the newest checkpoint that is whole; None where there is none.

        The log names each newer one, and why it is not used.

        Raises
        ------
        UserError
            There are checkpoints, and none is whole.
        """
        problems = []
        for number in reversed(self.rounds()):
            try:
                saved = self._read(number)
            except (OSError, ValueError, RecursionError) as error:
                problems.append(f"round {number}: {error}")
                continue
            for problem in problems:
                logger.error("resume: the checkpoint of %s; it is not used", problem)
            if problems:
                logger.error("resume: the run goes on after round %d", number)
            return saved
        if problems:
            raise UserError(f"resume: no checkpoint of {self.path} is whole: {'; '.join(problems)}")
        return None

    def saved(self, number: int) -> Saved:
        """Read the checkpoint of round ``number``; raise UserError where it is not whole."""
        try:
            return self._read(number)
        except (OSError, ValueError, KeyError, RecursionError) as error:
            raise UserError(f"round {number} of {self.path} cannot be read: {error}") from None

    def go_back(self, number: int) -> Saved | None:
        """Read the checkpoint of round ``number`` and delete all later ones; None for round 0.

        Raises
        ------
        UserError
            Where it cannot be read.
        """
        saved = self.saved(number) if number else None
        for later in self.rounds():
            if later > number:
                shutil.rmtree(self._checkpoint(later), ignore_errors=True)
        return saved

    def _read(self, number: int) -> Saved:
        """Read a checkpoint; raise ValueError, RecursionError or OSError if it is not whole."""
        from models import weights

        folder = self._checkpoint(number)
        content = checksums.checked(json.loads((folder / "round.json").read_text()))
        tensors, metadata = weights.load(folder / "state.safetensors")
        # Both files have the round: those of two rounds do not belong together.
        if content.get("round") != number or metadata.get("round") != str(number):
            raise ValueError("its files are of another round")
        saved = Saved(number, {}, {}, list(self._history.read(number, str(content.get("history")))))
        kinds = {
            "state": saved.states,
            "optimizer": saved.optimizers,
            "published": saved.published,
        }
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            key, _, tensor_name = rest.partition("//")
            if kind not in kinds:
                raise ValueError(
                    f"state.safetensors has {name!r}, which this version does not know"
                )
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{name!r} in state.safetensors is not finite")
            kinds[kind].setdefault(key, {})[tensor_name] = tensor
        return saved

    def _checkpoint(self, number: int) -> Path:
        return self.path / CHECKPOINTS / f"round-{number:06d}"


def check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError where a resumed run is configured in another way than it began."""
    old, new = _leaves(before), _leaves(now)
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in _MAY_CHANGE
    ]
    if changed:
        shown = [f"{k}: was {old.get(k)!r}, now {new.get(k)!r}" for k in changed[:5]]
        raise UserError(
            "resume: the configuration is not the one that the run began with "
            f"({'; '.join(shown)}); give the same overrides, or start a new run"
        )


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON durably; only its owner may read it."""
    members = (f"{json.dumps(key)}:{_as_json(value)}" for key, value in content.items())
    # In two steps: with an indent, json encodes in Python, which takes several times as long.
    text = msgspec.json.format(f"{{{','.join(members)}}}", indent=1)
    with replacing_private(path) as unfinished, unfinished.open("w") as file:
        file.write(text)


def _as_json(value: object) -> str:
    """Return JSON; records of rounds of before, which become more and more, are not encoded anew."""
    if isinstance(value, list) and value and isinstance(value[0], PlainRecord):
        return f"[{','.join(each.json for each in value)}]"
    return json.dumps(value, allow_nan=False)


def _named(start: str | Mapping[str, str]) -> str:
    if isinstance(start, str):
        return start or "none"
    return ", ".join(f"{each} of {name}" for name, each in sorted(start.items()))


def _locked(file: IO[str]) -> bool:
    """Take the lock of an open file, which its closing gives back; return whether it could be had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            name: leaf
            for key, inner in value.items()
            for name, leaf in _leaves(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: list(value) if isinstance(value, tuple) else value}
