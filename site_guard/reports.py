"""The reports that leave a site: what the app may choose in them, and what the guard writes itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message

from fedstrata.protocol import kinds, limits
from fedstrata.protocol.answers import DeployReport, Metrics, RoundReport, SiteReport
from fedstrata.protocol.categories import CategoriesReport, open_columns
from fedstrata.protocol.codings import Codings, read_codings
from fedstrata.protocol.data_description import COUNTS, RANGE, DataDescription
from fedstrata.protocol.forms import SAFETENSORS, Form, describe_form, fingerprint, read_form
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.measures import MEASURES
from fedstrata.protocol.plan import AGREED_LATER
from fedstrata.protocol.rounding import MOST_SECONDS, rounded
from fedstrata.protocol.sums import SumsReport
from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError
from site_guard.settings import SiteSettings

MOST_NAMED = 5  # tensors that a refusal names
# Names of tensors and classes are the app's own words: these limits bound what they could carry.
MOST_TENSORS, MOST_IN_NAMES = 2_000, 60_000  # tensors of all groups; characters of their names
MOST_CLASSES, MOST_IN_CLASSES = 1_000, 10_000  # classes; characters of their names
MOST_AXES, MOST_SIZE = 8, 1 << 31  # of a tensor's shape
MOST_PLANS = 128  # of a run: each lets the app describe itself once
MOST_STATES = 64  # content hashes of a group's states that are remembered
PACKAGES = ("torch", "flwr")  # whose versions a site reports
_NAME = re.compile(r"[\w.]{1,200}", re.ASCII)  # of a tensor
_VERSION = re.compile(r"""^__version__\s*(?::\s*\w+\s*)?=\s*['"]([\w.+-]{1,40})['"]""", re.M)
Schema = dict[str, Form]


@dataclass
class ReportRules:
    """Writes every report of a site anew, or says why it may not leave.

    What describes the site is fixed by the app's first answer to a plan: with each further one it
    could say something else. What the guard knows itself, the app does not say at all.

    Parameters
    ----------
    settings : SiteSettings
        What the site is willing to share.
    """

    settings: SiteSettings
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    # By what it is, with run and plan: what the app said of it first.
    _first: dict[tuple[object, ...], object] = field(default_factory=dict)
    _plans: dict[int, set[str]] = field(default_factory=dict)
    # Content hashes that orders named, by group: the latest last.
    _states: dict[str, dict[str, None]] = field(default_factory=dict)

    def check_order(self, order: Message) -> None:
        """Raise Refused for one plan more than a run may have, or one that sites agreed on anew."""
        run = order.metadata.run_id
        for name in AGREED_LATER:
            agreed = plan_of(order).get(name)
            if agreed is not None and self._first.setdefault((name, run), agreed) != agreed:
                raise Refused(
                    f"the plan has another `{name}` than before in this run: start a new run"
                )
        plans = self._plans.setdefault(run, set())
        plans.add(plan_hash(order))
        if len(plans) > MOST_PLANS:
            raise Refused(f"the run has more than {MOST_PLANS} plans: start another one")

    def note_state(self, group: str, content_hash: str) -> None:
        """Remember the hash of a state that the server sent; the app may say that it has it."""
        states = self._states.setdefault(group, {})
        states.pop(content_hash, None)
        states[content_hash] = None
        if len(states) > MOST_STATES:
            del states[next(iter(states))]

    def site_report(
        self, order: Message, report: SiteReport
    ) -> tuple[SiteReport, dict[str, Schema]]:
        """Return the report that leaves for a query, and the tensors that it announces, by group.

        Raises
        ------
        Refused
            It has more text than it needs, or other facts than in an answer before.
        """
        if report.task != self.settings.task:
            raise Refused(
                f"the app has the task {report.task!r}, and this site's is {self.settings.task!r}"
            )
        _check_text(report)
        self._refuse_classes(report.classes)
        forms = {
            group: {name: _form(name, schema[name]) for name in sorted(schema)}
            for group, schema in report.schemas.items()
        }
        run, plan = order.metadata.run_id, plan_hash(order)
        self._first.setdefault(("shape", run, _categories_of(order)), report.input_shape)
        self._fix(("classes", run), report.classes, "classes", "in this run")
        _refuse_constants(order, report.kind)
        self._fix(("kind", run), report.kind.name, "kinds of task", "in this run")
        self._fix(("constants", run, plan), report.kind, "constants", "for the same plan")
        described = (report.input_shape, forms)
        self._fix(("layers", run, plan), described, "layers", "for the same plan")
        for split, count in report.examples.items():
            self._fix_examples(order, split, count)
        left_of = {"baseline": report.baseline, "kind": {"name": report.kind.name}}
        baseline = rounded({**left_of, "examples": report.examples})["baseline"]
        self._fix(("baseline", run, plan), baseline, "baselines", "for the same plan")
        left = replace(
            report,
            fingerprints={group: fingerprint(schema) for group, schema in forms.items()},
            schemas={
                group: {name: describe_form(form) for name, form in schema.items()}
                for group, schema in forms.items()
            },
            device=self._device(order, report.device),
            versions=dict(self.versions),
            known_states=self._known_states(order, report.known_states),
            data=self._described(order, report),
        )
        return left, forms

    def check_sums(self, order: Message, report: SumsReport) -> None:
        """Raise Refused for sums over few rows, of other columns than announced, or other ones.

        A run gets one answer: from sums over other rows it could compute what one row holds.
        """
        run = order.metadata.run_id
        shape = self._first.get(("shape", run, _categories_of(order)))
        if shape is not None and shape != (len(report.inputs),):
            raise Refused(f"the app sends sums of {len(report.inputs)} inputs and announced others")
        least = self.settings.plan.min_examples
        if any(0 < count < least for count in (*report.inputs.count, *report.targets.count)):
            raise Refused(
                f"a sum would be over fewer training rows, and this site's rule is "
                f"`plan: min-examples`: {least}"
            )
        self._fix(("sums", run), report, "sums", "in this run")

    def check_categories(self, order: Message, report: CategoriesReport) -> None:
        """Raise Refused for categories of other columns than the plan asks for, or other ones."""
        wanted = open_columns(plan_of(order).get("data") or {})
        if others := sorted(set(report.columns) - set(wanted)):
            raise Refused(f"the app names categories of {some(others)}, which the plan has not")
        self._fix(("named categories", order.metadata.run_id), report, "categories", "in this run")

    def check_counts(self, order: Message, report: RoundReport | DeployReport) -> None:
        """Raise Refused for another round than the order's, and for counts that make no sense."""
        if report.round != round_of(order):
            raise Refused(
                f"the app answers round {report.round}, and the order is {round_of(order)}"
            )
        for entry in fields(report):
            value = getattr(report, entry.name)
            if isinstance(value, int) and not 0 <= value < limits.MOST_COUNTED:
                raise Refused(f"the app says that {entry.name} is {value}")
        if not 0 <= report.seconds <= MOST_SECONDS:
            raise Refused(f"the app says that it worked for {report.seconds} s")
        if not 0 <= report.loss <= limits.MOST_LOSS:
            raise Refused(f"the app says that the loss is {report.loss}")
        whole = report.planned
        if self.settings.max_steps is not None:
            whole = min(whole, self.settings.max_steps)
        if report.steps not in (whole, report.planned):
            raise Refused(f"the app says that it did {report.steps} of {report.planned} steps")
        key = (order.metadata.run_id, plan_hash(order))
        kind = order.metadata.message_type
        self._fix(("planned", kind, *key), report.planned, "numbers of steps", "for the same plan")
        self._fix_examples(order, "train", report.examples)
        if isinstance(report, DeployReport):
            self._fix(("tuned", *key), report.tuned, "numbers of tensors", "for the same plan")
            measured = [report.before, report.after]
        else:
            measured = [report.metrics]
            if report.interval is not None and kind != kinds.EVALUATE:
                raise Refused("the app has an interval, which only a last evaluation has")
            if report.began_with is not None and kind != kinds.TRAIN:
                raise Refused("the app says which layers a round began with, and this is no round")
            if report.owed is not None and not (
                kind == kinds.TRAIN and codings_of(order).loses_updates
            ):
                raise Refused("the app says what coding owes, and nothing is lost by it")
        for metrics in measured:
            self._check_measured(order, metrics)
        if report.numerics is not None:
            numerics = report.numerics
            self._fix(
                ("threads", *key), numerics.threads, "numbers of threads", "for the same plan"
            )
            if numerics.batched_sites != 1 or numerics.micro_batches.bit_count() != 1:
                raise Refused("the app says that it computed in a way that a site cannot")

    def outputs(self, order: Message) -> int | None:
        """Return how many classes the app named in this run; None where it was not asked since."""
        names = self._first.get(("classes", order.metadata.run_id))
        return len(names) if isinstance(names, tuple) else None

    def _check_measured(self, order: Message, metrics: Metrics) -> None:
        run = order.metadata.run_id
        for split, values in metrics.items():
            self._fix_examples(order, split, values["examples"])
            self._fix(("measures", run), set(values), "measures", "in this run")
            kind, names = self._first.get(("kind", run)), self._first.get(("classes", run))
            # Unknown where this process started after the run's query.
            if isinstance(kind, str) and isinstance(names, tuple):
                measures = MEASURES[kind]
                if set(values) != {"examples", *measures.of, *measures.of_outputs(len(names))}:
                    raise Refused("the app has measures of another kind of task than it said")

    def _fix_examples(self, order: Message, split: str, count: float | None) -> None:
        """Raise Refused if a split has another number of examples than before."""
        key = ("examples", split, order.metadata.run_id, plan_hash(order))
        self._fix(key, count, f"numbers of {split} examples", "for the same plan")

    def _fix(self, key: tuple[object, ...], value: object, what: str, when: str) -> None:
        if self._first.setdefault(key, value) != value:
            raise Refused(
                f"the app names other {what} than before {when}: where the site's data or its app "
                "changed, start a new run"
            )

    def _described(self, order: Message, report: SiteReport) -> DataDescription | None:
        """Return what of the data's description may leave: as `describe` says, and always the same.

        Raises
        ------
        Refused
            The counts are not those of the splits, or are others than before.
        """
        if report.data is None:
            return None
        report.data.check()
        said, given = self.settings.describe, report.data
        kept = DataDescription(
            given.value_range if RANGE in said else None, given.counts if COUNTS in said else {}
        )
        for split, counted in kept.counts.items():
            if not set(counted) <= set(report.classes):
                raise Refused("the app counts examples of classes that it does not name")
            if max(counted.values(), default=0) > report.examples[split]:
                raise Refused(f"the app counts more {split} examples of a class than there are")
        run, plan = order.metadata.run_id, plan_hash(order)
        self._fix(("data", run, plan), kept, "descriptions of its data", "for the same plan")
        return None if kept == DataDescription() else kept

    def _refuse_classes(self, names: Sequence[str]) -> None:
        """Raise Refused, without the names, for classes that the site does not let out."""
        if self.settings.classes is None:
            return
        if others := set(names) - set(self.settings.classes):
            raise Refused(
                f"the app names {len(others)} classes that `classes` in this site's site.yaml does "
                "not have: data.classes has to be made of names that every site lets out"
            )

    def _device(self, order: Message, named: str) -> str:
        """Return the site's device; with ``auto`` only the app knows whether it found a GPU."""
        if self.settings.device != "auto":
            return self.settings.device
        if named not in ("cpu", "cuda"):
            raise Refused("the app's device is neither cpu nor cuda")
        self._fix(("device", order.metadata.run_id), named, "devices", "in this run")
        return named

    def _known_states(
        self, order: Message, known: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[str, ...]]:
        """Return the hashes of states that the server may know: a hash could be any 32 bytes.

        These are what orders named, and one besides for each plan: what the run starts from.
        The others are left out, and the server sends those layers whole.
        """
        codings = codings_of(order)
        left = {}
        for group, hashes in known.items():
            if not codings.to_site(group).remembers:
                continue
            sent = self._states.get(group, {})
            key = ("start", group, order.metadata.run_id, plan_hash(order))
            for each in hashes:
                if each not in sent:
                    self._first.setdefault(key, each)
            start = self._first.get(key)
            left[group] = tuple(each for each in hashes if each in sent or each == start)
        return left


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter; torch is not imported."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = _own_version(name) or version(name)
        except PackageNotFoundError:
            continue
    return found


def _own_version(package: str) -> str:
    """Return what a package's version.py says: torch's names the build, as its metadata does not."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    try:
        found = _VERSION.search(Path(spec.origin).with_name("version.py").read_text())
    except (OSError, UnicodeDecodeError):
        return ""
    return found[1] if found else ""


def round_of(message: Message) -> int:
    """Return the round that an order names, or 0."""
    record = message.content.get(kinds.ORDER)
    number = record.get("round") if isinstance(record, ConfigRecord) else None
    return number if isinstance(number, int) else 0


def plan_hash(message: Message) -> str:
    """Return the SHA-256 of an order's plan."""
    return hashlib.sha256(str(_plan_text(message)).encode()).hexdigest()


def plan_of(message: Message) -> dict[str, Any]:
    """Return the plan of an order as it is written; raise Refused if it cannot be read."""
    text = _plan_text(message)
    try:
        plan = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        plan = None
    if not isinstance(plan, dict):
        raise Refused("the plan cannot be read")
    return plan


def _categories_of(message: Message) -> str:
    """Return the agreed categories in the plan of an order, on which the inputs depend."""
    return json.dumps(plan_of(message).get("categories"), sort_keys=True)


def codings_of(message: Message) -> Codings:
    """Return how each group travels in the plan of an order; raise Refused if it cannot be read."""
    text = _plan_text(message)
    try:
        plan = json.loads(text) if isinstance(text, str) else {}
        up, down = plan.get("coding", {}), plan.get("coding_down", {})
        return read_codings(dict(up), dict(down))
    except UserError as error:
        raise Refused(f"the plan's coding is unknown here: {error}") from None
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise Refused("the plan's coding cannot be read") from None


def check_shape(who: str, what: str, shape: Sequence[int]) -> None:
    """Raise Refused for a shape that no tensor has; ``who`` says that ``what`` has it."""
    if len(shape) > MOST_AXES or not all(0 <= size < MOST_SIZE for size in shape):
        raise Refused(f"{who} says that {what} has the shape {str(tuple(shape))[:80]}")


def some(names: Sequence[str]) -> str:
    """Return the first few names, safe to print, and how many more there are."""
    shown = ", ".join(repr(limits.printable(name)[:80]) for name in names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _plan_text(message: Message) -> object:
    record = message.content.get(kinds.PLAN)
    return record.get("json") if isinstance(record, ConfigRecord) else None


def _check_text(report: SiteReport) -> None:
    """Raise Refused for more text, or other text, than the answer to a query needs."""
    if set(report.fingerprints) != set(report.schemas):
        raise Refused("the app names other groups in its fingerprints than in its schemas")
    if not set(report.known_states) <= set(report.schemas):
        raise Refused("the app has known states of other groups than those in its schemas")
    names = [name for schema in report.schemas.values() for name in schema]
    if strange := sorted(name for name in names if not _NAME.fullmatch(name)):
        raise Refused(f"the app names {some(strange)}, which are no tensors' names")
    for what, texts, most, most_in in (
        ("tensors", names, MOST_TENSORS, MOST_IN_NAMES),
        ("classes", report.classes, MOST_CLASSES, MOST_IN_CLASSES),
    ):
        length = sum(map(len, texts))
        if len(texts) > most or length > most_in:
            raise Refused(
                f"the app names {len(texts)} {what} in {length} characters, "
                f"and at most {most} in {most_in} may leave"
            )
    check_shape("the app", "the input", report.input_shape)


def _refuse_constants(order: Message, kind: TaskKind) -> None:
    """Raise Refused for a unit or constants that the plan does not have: they could say anything."""
    text = _plan_text(order)
    try:
        plan = json.loads(text) if isinstance(text, str) else None
        words, numbers = _values(plan)
    except (ValueError, RecursionError):
        raise Refused("the plan cannot be read") from None
    if (kind.unit and kind.unit not in words) or not {*kind.mean, *kind.std} <= numbers:
        raise Refused("the app's unit, mean or std of its numbers are not in the plan")


def _values(value: object) -> tuple[set[str], set[float]]:
    """Return all texts and all numbers in JSON."""
    if isinstance(value, str):
        return {value}, set()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return set(), {float(value)}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    words: set[str] = set()
    numbers: set[float] = set()
    for each in inner:
        more_words, more_numbers = _values(each)
        words |= more_words
        numbers |= more_numbers
    return words, numbers


def _form(name: str, text: str) -> Form:
    """Return dtype and shape of a tensor, read from the app's text."""
    try:
        form = read_form(text)
    except ValueError:
        form = ("", ())
    if form[0] not in SAFETENSORS:
        raise Refused(f"the app describes {name!r} as {limits.printable(text)[:80]!r}")
    check_shape("the app", repr(name), form[1])
    return form
