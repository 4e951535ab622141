"""A site's own settings, the file ``site.yaml``: only the hospital writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, time
from operator import attrgetter
from pathlib import Path

import msgspec

from fedstrata.protocol.data_description import DEFAULT, read_choices
from fedstrata.protocol.knowledge import KNOWLEDGE
from fedstrata.protocol.limits import NAME, NotNow
from fedstrata.protocol.offered_models import MODEL_NAME
from fedstrata.support.ed25519 import public_keys
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.paths import absolute_path
from site_guard.plan_rules import PlanRules, known_entries, matches

GROUPS = ("common", "task", *KNOWLEDGE)  # the groups that a site can share
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
# Names of tensors and modules, and globs. Not what `groups` in a run may have besides: "...",
# "type:", "first:", which need the model to be resolved.
_KEPT = re.compile(r"(?!\.)[\w.*?!\[\]-]+(?<!\.)")
_CHOICES = (("errors", "full", "brief"), ("approve", "signed", "ask"), ("network", "take", "keep"))
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Bundles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Which app bundles may run here, and how long their process is kept.

    Parameters
    ----------
    signed_by : tuple of str
        Public keys in OpenSSH's form (``ssh-ed25519 AAAA...``), one of which must have signed the
        bundle; empty for any bundle that the SuperLink sends.
    keep_warm : float
        Seconds that the app's process stays, and keeps its memory, without work.
    """

    signed_by: tuple[str, ...] = ()
    keep_warm: float = 600.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What the app's process may take of the machine.

    Parameters
    ----------
    memory_gb : float or None
        The most memory of its own that each process may have, in 10^9 bytes; None for no limit.
    processes : int or None
        The most processes and threads of its user; None for 2,048 where ``app-user`` names one.
    open_files : int
        The most files that each process may have open.
    """

    memory_gb: float | None = None
    processes: int | None = None
    open_files: int = 4096


class Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Where the site's process records what it was asked and what left.

    Parameters
    ----------
    log : str
        The file; empty for ``audit.jsonl`` in the folder of ``guard``.
    key : str
        Private key that signs each line; empty for a log without signatures.
    """

    log: str = ""
    key: str = ""


class SiteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The settings of one site.

    Parameters
    ----------
    site, task : str
        Names; the server's roster binds them to the site's key.
    data : str
        Folder (or file) with the site's data; empty for drawn data.
    state, cache : str
        Folders of the site's personal layers, and of checkpoints, features and bundles.
    models : str
        Folder with models made elsewhere; empty if there are none.
    cache_gb : int or None
        The most that features may take in ``cache``, in 10^9 bytes; None for the app's default.
    share : tuple of str
        Groups that the site agrees to send: ``common``, ``task``, both, or none.
    keep : tuple of str
        Names or globs of tensors that never leave, whichever group a run puts them into. A name
        is the whole tensor's or a module's above it, as the bundle's model has it.
    model : str or None
        Which of the networks that a run offers is trained here; None names none.
    describe : tuple of str
        What the server may know of the data, beside the number of examples of each split:
        ``range`` (of the files' values) and ``classes`` (the examples of each class).
    classes : tuple of str or None
        The class names that may leave, whatever the run configures; None for those that it does.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads, max_steps : int or None
        CPU threads of the app's process; the most optimiser steps in a round.
    partition_id, num_partitions : int or None
        Which share of drawn or public data this site plays, in a rehearsal.
    gpu_memory : float
        The largest share of the GPU's memory that the app's process may take.
    hours : tuple of str
        When training may begin, in the machine's local time: ``"20:00-06:00"``; empty for always.
    errors : str
        What leaves of an error in the app's words: ``full`` for all of it, at most 2,000
        characters; ``brief`` for no more than that there was one.
    app_user : str or None
        As whom the app's process runs: a user's name, or ``UID:GID``; None for the guard's own.
    network : str
        ``take`` the network from the app's process, and refuse to start it where that cannot be;
        or let it ``keep`` the network.
    limits : Limits
        What the app's process may take of the machine.
    bundles : Bundles
        Which app bundles may run.
    plan : PlanRules
        What the plan of a run may ask.
    approve : str
        ``signed`` for every run that `bundles` allows; ``ask`` for those alone to which a person
        of the site has said yes.
    guard : str
        Folder of what the site's process keeps for itself: approvals, and how much was asked
        today. Empty for ``guard/<site>`` beside ``state``.
    audit : Audit
        The audit log.
    """

    site: str
    task: str
    state: str
    cache: str
    share: tuple[str, ...]
    data: str = ""
    models: str = ""
    cache_gb: int | None = None
    keep: tuple[str, ...] = ()
    model: str | None = None
    describe: tuple[str, ...] = DEFAULT
    classes: tuple[str, ...] | None = None
    device: str = "auto"
    threads: int | None = None
    max_steps: int | None = None
    partition_id: int | None = None
    num_partitions: int | None = None
    gpu_memory: float = 1.0
    hours: tuple[str, ...] = ()
    errors: str = "full"
    app_user: str | None = None
    network: str = "take"
    limits: Limits = Limits()
    bundles: Bundles = Bundles()
    plan: PlanRules = PlanRules()
    approve: str = "signed"
    guard: str = ""
    audit: Audit = Audit()

    @property
    def guard_folder(self) -> Path:
        """Where the site's process keeps what the app must not change."""
        return Path(self.guard) if self.guard else Path(self.state).parent / "guard" / self.site

    @property
    def audit_log(self) -> Path:
        """The file of the audit log."""
        return Path(self.audit.log) if self.audit.log else self.guard_folder / "audit.jsonl"

    def node_config(self) -> dict[str, str | int]:
        """Return what the app learns about its site, under the keys of Flower's node config."""
        entries: dict[str, str | int | None] = {
            "site": self.site,
            "task": self.task,
            "data-root": self.data or None,
            "state-dir": self.state,
            "cache-dir": self.cache,
            "cache-gb": self.cache_gb,
            "models-dir": self.models or None,
            "model": self.model,
            "device": self.device,
            "threads": self.threads,
            "max-steps": self.max_steps,
            "describe": ",".join(self.describe),
            "partition-id": self.partition_id,
            "num-partitions": self.num_partitions,
        }
        return {key: value for key, value in entries.items() if value is not None}

    def who_decides(self) -> str:
        """Return, for the log, whose yes a run needs to train here, and which rules are not usual."""
        if self.approve == "ask":
            whose = "a run waits until a person here allows it (fedstrata site approvals)"
        elif self.bundles.signed_by:
            whose = f"a run needs a signature of one of {len(self.bundles.signed_by)} keys"
        else:
            whose = (
                "ANY APP WITH ANY PLAN within the rules runs here: no bundles.signed-by, no approve"
            )
        usual = known_entries()
        changed = [
            f"{entry} {value}"
            for entry, value in known_entries(self.plan).items()
            if value != usual[entry]
        ]
        return f"{whose}; plan rules: {', '.join(changed) or 'as by default'}"

    def stays(self, tensor: str) -> bool:
        """Whether a tensor may never leave the site."""
        return matches(tensor, self.keep)

    def refuse_outside_hours(self, now: datetime) -> None:
        """Raise NotNow where training is not allowed at ``now``, local time."""
        if self.hours and not any(_within(span, now.time()) for span in self.hours):
            raise NotNow(
                f"training may begin here at {', '.join(self.hours)}, and it is {now:%H:%M}"
            )


SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "bundles": Bundles,
    "limits": Limits,
    "plan": PlanRules,
    "audit": Audit,
}


def read_settings(path: Path) -> SiteSettings:
    """Return the settings in ``site.yaml``.

    Raises
    ------
    UserError
        The file cannot be read, is not YAML, or an entry is unknown, missing or impossible.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    try:
        settings = msgspec.yaml.decode(text, type=SiteSettings)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {_message(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: {_no_yaml(text, error)}") from None
    _check(settings, path)
    return settings


def _no_yaml(text: bytes, error: Exception) -> str:
    said = f"this is no YAML: {str(error).splitlines()[0]}"
    if b"\\" in text:
        said += "; within double quotes a backslash is written twice, and paths here have / instead"
    return said


def _message(error: msgspec.ValidationError) -> str:
    text = str(error)
    unknown = re.search(r"unknown field `([^`]*)`", text)
    if not unknown:
        return text
    inner = next((name for name in SECTIONS if f"`$.{name}`" in text), "")
    known = SECTIONS.get(inner, SiteSettings).__struct_encode_fields__
    where = f"{inner} has" if inner else "there is"
    return f"{where} no entry {unknown[1]!r}; nearest: {nearest(unknown[1], known)}"


def _check(settings: SiteSettings, path: Path) -> None:
    for entry in ("site", "task"):
        if not NAME.fullmatch(getattr(settings, entry)):
            raise UserError(
                f"{path}: {entry} must be letters, digits, '.', '_' and '-', at most 64 characters"
            )
    for entry in ("data", "state", "cache", "models", "guard", "audit.log", "audit.key"):
        named = attrgetter(entry)(settings)
        if named:
            absolute_path(named, f"{path}: {entry}")
    if settings.model is not None and not MODEL_NAME.fullmatch(settings.model):
        raise UserError(
            f"{path}: model is the name of one of the networks that a run offers, such as edge: "
            f"letters, digits, '_' and '-'; got {settings.model[:80]!r}"
        )
    if wrong := sorted(set(settings.share) - set(GROUPS)):
        raise UserError(
            f"{path}: share has {', '.join(map(repr, wrong))}; a site can share "
            f"{', '.join(GROUPS[:-1])} and {GROUPS[-1]}, and other groups never leave"
        )
    read_choices(",".join(settings.describe), f"{path}: describe")
    for span in settings.hours:
        if not _HOURS.fullmatch(span):
            raise UserError(f"{path}: hours are written as '20:00-06:00', got {span!r}")
        if len(set(span.split("-"))) == 1:
            raise UserError(f"{path}: hours {span!r} end when they begin; write [] for always")
    for entry in settings.keep:
        if not _KEPT.fullmatch(entry):
            raise UserError(
                f"{path}: keep has {entry!r}, which matches no tensor: write its name or its "
                "module's, or a glob, as in 'head.out' or '*.running_mean'"
            )
    if settings.classes is not None and len(set(settings.classes)) < max(2, len(settings.classes)):
        raise UserError(
            f"{path}: classes has {list(settings.classes)}; name two or more, each once, as in "
            "[benign, malignant], or leave the entry out"
        )
    if not _DEVICE.fullmatch(settings.device):
        raise UserError(f"{path}: device is auto, cpu, cuda or cuda:N, got {settings.device!r}")
    public_keys(settings.bundles.signed_by, f"{path}: bundles.signed-by")
    for entry, *choices in _CHOICES:
        if (chosen := getattr(settings, entry)) not in choices:
            raise UserError(f"{path}: {entry} is {' or '.join(choices)}, got {chosen!r}")
    _check_plan(settings, path)
    if not 0 < settings.gpu_memory <= 1:
        raise UserError(f"{path}: gpu-memory is a share, above 0 and at most 1")
    if not settings.bundles.keep_warm >= 0:
        raise UserError(f"{path}: bundles.keep-warm is a number of seconds, at least 0")
    _check_numbers(settings, path)


def _check_numbers(settings: SiteSettings, path: Path) -> None:
    for entry, least in (
        ("cache_gb", 0),
        ("threads", 1),
        ("max_steps", 1),
        ("partition_id", 0),
        ("num_partitions", 1),
        ("limits.memory_gb", 1),
        ("limits.processes", 64),
        ("limits.open_files", 256),
    ):
        value = attrgetter(entry)(settings)
        if value is not None and not value >= least:
            name = entry.replace("_", "-")
            raise UserError(f"{path}: {name} must be at least {least}, got {value}")


def _check_plan(settings: SiteSettings, path: Path) -> None:
    """Raise UserError for plan rules that are impossible, alone or beside the other entries."""
    settings.plan.check(str(path))
    for group, entries in (settings.plan.groups or {}).items():
        if group not in GROUPS:
            raise UserError(f"{path}: plan: groups has {group!r}; write {' or '.join(GROUPS)}")
        if wrong := [entry for entry in entries if not _KEPT.fullmatch(entry)]:
            raise UserError(
                f"{path}: plan: groups has {wrong[0]!r}, which matches no tensor: write a name or "
                "a glob, as in 'layer4' or 'head.*'"
            )
    if settings.max_steps is not None and settings.max_steps < settings.plan.min_steps:
        raise UserError(
            f"{path}: max-steps {settings.max_steps} is below plan: min-steps "
            f"{settings.plan.min_steps}, so no round could be sent"
        )


def _within(span: str, now: time) -> bool:
    match = _HOURS.fullmatch(span)
    assert match is not None  # checked when the file was read
    hours = [int(number) for number in match.groups()]
    start, end = time(hours[0], hours[1]), time(hours[2], hours[3])
    return start <= now < end if start < end else now >= start or now < end
