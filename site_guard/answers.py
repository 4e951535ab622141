"""What leaves the site: each answer of the app is read, checked, and written anew from what may leave."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import safetensors
from flwr.app import ArrayRecord, ConfigRecord, Message
from safetensors import SafetensorError

from fedstrata.protocol import answers, kinds, limits, orders
from fedstrata.protocol.answers import DeployReport, RoundReport, SiteReport
from fedstrata.protocol.codings import (
    SAFETENSORS,
    Coding,
    Codings,
    Form,
    describe_form,
    expected_arrays,
    read_codings,
    read_form,
    size_of,
)
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from site_guard.settings import SiteSettings

logger = logging.getLogger("flwr")
_HEADER = 8  # bytes of a safetensors file that say how long its header is
MOST_NAMED = 5  # tensors that a refusal names
# Names of tensors and classes are the app's own words: these limits bound what they could carry.
MOST_IN_QUERY, MOST_IN_REPORT = 200_000, 8_000  # characters: names of tensors; numbers
MOST_TENSORS, MOST_IN_NAMES = 2_000, 60_000  # tensors of all groups; characters of their names
MOST_CLASSES, MOST_IN_CLASSES = 1_000, 10_000  # classes; characters of their names
MOST_VERSIONS = 16
MOST_AXES, MOST_SIZE = 8, 1 << 31  # of a tensor's shape
MOST_CLAIMED = 1 << 33  # bytes of the tensors that an order describes and does not carry
BRIEF = "the app failed: see the site's log"
READERS: Mapping[str, Callable[[Message], SiteReport | RoundReport | DeployReport]] = {
    kinds.QUERY: answers.read_site_report,
    kinds.WEIGHTS: answers.read_site_report,
    kinds.TRAIN: answers.read_round_report,
    kinds.ALONE: answers.read_round_report,
    kinds.EVALUATE: answers.read_round_report,
    kinds.DEPLOY: answers.read_deploy_report,
}
"""By kind of order: what reads the report of the answer."""
_PLAIN = re.compile(r"[\w .:+()/-]{0,80}", re.ASCII)
_NAME = re.compile(r"[\w.]{1,200}", re.ASCII)  # of a tensor
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_DTYPES = {code: dtype for dtype, code in SAFETENSORS.items()}
Written = tuple[str, tuple[int, ...]]  # of an array: dtype as safetensors writes it, and shape
Schema = dict[str, Form]


@dataclass(frozen=True)
class Requested:
    """What an order asks a site to send.

    Parameters
    ----------
    schemas : mapping of str to Schema
        Dtype and shape of each tensor, by group.
    codings : Codings
        How they travel.
    """

    schemas: Mapping[str, Schema]
    codings: Codings

    @property
    def most_bytes(self) -> int:
        """The most bytes that the tensors take, coded so, without the payloads' headers."""
        return sum(
            size_of(part)
            for group, schema in self.schemas.items()
            for name, form in schema.items()
            for part in self.codings.from_site(group).parts(name, form).values()
        )


@dataclass
class AnswerFilter:
    """Writes every answer of a site anew, or says why it may not leave.

    Parameters
    ----------
    settings : SiteSettings
        What the site is willing to share.
    """

    settings: SiteSettings
    # What the app said in its answer to the first query, by run.
    _announced: dict[int, dict[str, Schema]] = field(default_factory=dict)
    _classes: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _schemas: dict[tuple[int, str], object] = field(default_factory=dict)

    def check_order(self, message: Message) -> Requested:
        """Return what an order asks for; raise Refused, before any work, for what may not leave.

        An order of a kind that is not in `READERS` is refused as well.

        A server gets back the layers that it sent for training. They must be of groups that the
        site shares, with tensors as the app announced them.
        """
        kind = message.metadata.message_type
        if kind not in READERS:  # Flower's apps take "train.default" for "train"
            raise Refused(
                f"the server asks for {limits.printable(kind)[:80]!r}, which is unknown here"
            )
        if kind != kinds.TRAIN:
            return Requested({}, Codings({}, {}))
        schemas = _schemas(message)
        for group, schema in schemas.items():
            self._refuse_group(group)
            self._refuse_staying(group, schema)
            self._refuse_unannounced(message.metadata.run_id, group, schema)
        return Requested(schemas, _codings(message))

    def filter_answer(self, order: Message, answered: Message, requested: Requested) -> Message:
        """Return the answer to ``order`` that leaves, made of the report and the allowed layers.

        Parameters
        ----------
        order : Message
            What the server asked.
        answered : Message
            What the app's process sent; nothing in it is trusted.
        requested : Requested
            What `check_order` returned for the order.

        Raises
        ------
        Refused
            The report cannot be read, is of another site or another round, or has more text or
            larger numbers than it needs. Or there are records, groups or tensors that the site
            does not share or that were not asked for, or another shape or dtype.
        """
        kind = order.metadata.message_type
        _refuse_large(kind, answered)
        report = READERS[kind](answered)
        if report.site != self.settings.site:
            raise Refused(
                f"the app speaks as {report.site!r}, and this site is {self.settings.site!r}"
            )
        if report.error:
            answers.expect_no_layers(answered)
            return answers.failure(
                order,
                report.site,
                round_of(order),
                self.error_text(report.error),
                diverged=isinstance(report, RoundReport) and report.diverged,
            )
        if isinstance(report, SiteReport):
            report = self._checked_query(order, report)
        else:
            _check_counts(order, report)
        if kind != kinds.TRAIN:
            answers.expect_no_layers(answered)
            return answers.answer(order, report, {})
        layers = {}
        for group, payload in answers.read_payloads(answered).items():
            self._refuse_group(group)
            if group not in requested.schemas:
                raise Refused(f"the app sends group {group!r}, which the server did not ask for")
            coding = requested.codings.from_site(group)
            layers[group] = _checked(group, payload, requested.schemas[group], coding)
        return answers.answer(order, report, layers)

    def error_text(self, text: str) -> str:
        """Return what leaves of an error in the app's words; the site's log has all of it."""
        text = limits.one_line(text)
        logger.warning("site %s: the app's error: %s", self.settings.site, text)
        return text if self.settings.errors == "full" else BRIEF

    def _checked_query(self, order: Message, report: SiteReport) -> SiteReport:
        """Return the report of the site and its layers, with the shapes written anew.

        The first report binds the app: its classes for the whole run, its layers for the plan.
        Otherwise it could send something with each query, in names.
        """
        if report.task != self.settings.task:
            raise Refused(
                f"the app has the task {report.task!r}, and this site's is {self.settings.task!r}"
            )
        _check_text(report)
        self._refuse_classes(report.classes)
        for group, schema in report.schemas.items():
            self._refuse_group(group)
            self._refuse_staying(group, schema)
        forms = {
            group: {name: _form(name, text) for name, text in schema.items()}
            for group, schema in report.schemas.items()
        }
        run = order.metadata.run_id
        if self._classes.setdefault(run, report.classes) != report.classes:
            raise Refused("the app names other classes than before in this run")
        described = (report.input_shape, report.fingerprints, forms)
        if self._schemas.setdefault((run, _plan_of(order)), described) != described:
            raise Refused("the app names other layers than before for the same plan")
        self._announced[run] = forms
        schemas = {
            group: {name: describe_form(form) for name, form in schema.items()}
            for group, schema in forms.items()
        }
        return replace(report, schemas=schemas)

    def _refuse_group(self, group: str) -> None:
        if group not in self.settings.share:
            shared = " and ".join(self.settings.share) or "nothing"
            raise Refused(
                f"this run would send the group {limits.printable(group)[:80]!r}, and this site shares "
                f"{shared}: the partition (groups=...) has to leave it with the site"
            )

    def _refuse_classes(self, names: Sequence[str]) -> None:
        """Raise Refused, without the names, for classes that the site does not let out."""
        if self.settings.classes is None:
            return
        if others := set(names) - set(self.settings.classes):
            raise Refused(
                f"the app names {len(others)} classes that `classes` in this site's site.yaml does "
                "not have: data.classes has to be made of names that every site lets out"
            )

    def _refuse_staying(self, group: str, names: Mapping[str, object]) -> None:
        staying = sorted(name for name in names if self.settings.stays(name))
        if staying:
            raise Refused(
                f"this run would send {_some(staying)} in the group {group!r}, "
                "which may never leave this site"
            )

    def _refuse_unannounced(self, run: int, group: str, schema: Schema) -> None:
        if run not in self._announced:  # this process started after the run's query
            return
        announced = self._announced[run].get(group, {})
        if new := sorted(schema.keys() - announced.keys()):
            raise Refused(
                f"the order asks for {_some(new)} of {group!r}, which the app did not announce"
            )
        for name, form in schema.items():
            if announced[name] != form:
                raise Refused(f"the order has another shape or dtype of {name!r} than the app")


def round_of(message: Message) -> int:
    """Return the round that an order names, or 0."""
    record = message.content.get(kinds.ORDER)
    number = record.get("round") if isinstance(record, ConfigRecord) else None
    return number if isinstance(number, int) else 0


def _plan_of(message: Message) -> str:
    record = message.content.get(kinds.PLAN)
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    return hashlib.sha256(str(text).encode()).hexdigest()


def _codings(message: Message) -> Codings:
    """Return how each group travels in the plan of an order."""
    record = message.content.get(kinds.PLAN)
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    try:
        plan = json.loads(text) if isinstance(text, str) else {}
        up, down = plan.get("coding", {}), plan.get("coding_down", {})
        return read_codings(dict(up), dict(down))
    except UserError as error:
        raise Refused(f"the plan's coding is unknown here: {error}") from None
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise Refused("the plan's coding cannot be read") from None


def _schemas(message: Message) -> dict[str, Schema]:
    """Return dtype and shape of each tensor that an order asks for, by group."""
    coded = orders.read_coded(message)
    schemas: dict[str, Schema] = {}
    for group, each in coded.items():
        try:
            schemas[group] = {name: read_form(text) for name, text in each.tensors.items()}
        except ValueError as error:
            raise Refused(f"the order describes a tensor so: {error}") from None
    for key, payload in _layers(message).items():
        if kinds.group_of(key) not in coded:
            schemas[key] = {
                name: (_DTYPES.get(code, code), shape)
                for name, (code, shape) in _forms(key, payload).items()
            }
    for schema in schemas.values():
        for name, (dtype, shape) in schema.items():
            if dtype not in SAFETENSORS:
                raise Refused(f"the order asks for {_some([name])} as {dtype[:20]!r}")
            _check_shape("the order", repr(name), shape)
    claimed = sum(size_of(form) for group in coded for form in schemas[group].values())
    if claimed > MOST_CLAIMED:
        raise Refused(f"the order is about {claimed} bytes, and {MOST_CLAIMED} are the most")
    return schemas


def _check_text(report: SiteReport) -> None:
    """Raise Refused for more text, or other text, than the answer to a query needs."""
    if set(report.fingerprints) != set(report.schemas):
        raise Refused("the app names other groups in its fingerprints than in its schemas")
    if not set(report.known_states) <= set(report.schemas):
        raise Refused("the app has known states of other groups than those in its schemas")
    if not all(_FINGERPRINT.fullmatch(text) for text in report.fingerprints.values()):
        raise Refused("the app's fingerprints are not SHA-256 in hexadecimal digits")
    words = {report.device, *report.versions, *report.versions.values()}
    if len(report.versions) > MOST_VERSIONS or not all(_PLAIN.fullmatch(word) for word in words):
        raise Refused("the app's device and versions are not plain names")
    names = [name for schema in report.schemas.values() for name in schema]
    if strange := sorted(name for name in names if not _NAME.fullmatch(name)):
        raise Refused(f"the app names {_some(strange)}, which are no tensors' names")
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
    _check_shape("the app", "the input", report.input_shape)


def _check_shape(who: str, what: str, shape: Sequence[int]) -> None:
    if len(shape) > MOST_AXES or not all(0 <= size < MOST_SIZE for size in shape):
        raise Refused(f"{who} says that {what} has the shape {str(tuple(shape))[:80]}")


def _form(name: str, text: str) -> Form:
    """Return dtype and shape of a tensor, read from the app's text."""
    try:
        form = read_form(text)
    except ValueError:
        form = ("", ())
    if form[0] not in SAFETENSORS:
        raise Refused(f"the app describes {name!r} as {limits.printable(text)[:80]!r}")
    _check_shape("the app", repr(name), form[1])
    return form


def _check_counts(order: Message, report: RoundReport | DeployReport) -> None:
    """Raise Refused for another round than the order's, and for counts out of range."""
    if report.round != round_of(order):
        raise Refused(f"the app answers round {report.round}, and the order is {round_of(order)}")
    for entry in fields(report):
        value = getattr(report, entry.name)
        if isinstance(value, int) and not 0 <= value < limits.MOST_COUNTED:
            raise Refused(f"the app says that {entry.name} is {value}")


def _refuse_large(kind: str, answered: Message) -> None:
    most = MOST_IN_QUERY if kind.startswith(kinds.QUERY) else MOST_IN_REPORT
    record = answered.content.get(kinds.REPORT)
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    if isinstance(text, str) and len(text) > most:
        raise Refused(f"the app's report has {len(text)} characters, and at most {most} may leave")


def _layers(message: Message) -> dict[str, bytes]:
    record = message.content.get(kinds.LAYERS)
    if not isinstance(record, ArrayRecord):
        return {}
    return {str(group): array.data for group, array in record.items()}


def _forms(group: str, payload: bytes) -> dict[str, Written]:
    """Return dtype and shape of each tensor of a payload; raise Refused if it cannot be read."""
    try:
        tensors = safetensors.deserialize(payload)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, OverflowError) as error:
        raise Refused(
            f"the group {limits.printable(group)[:80]!r} is no safetensors file: {error}"
        ) from None
    return {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in tensors}


def _checked(group: str, payload: bytes, schema: Schema, coding: Coding) -> bytes:
    """Return the group's tensors as a new payload: the names, shapes and dtypes asked for.

    Dtype, shape and the plan's coding decide how many arrays a coded tensor has. Or one empty
    array says that it is unchanged.
    """
    found = _forms(group, payload)
    arrays: dict[str, Written] = {
        name: (SAFETENSORS[dtype], shape)
        for name, (dtype, shape) in expected_arrays(schema, coding, found.keys()).items()
    }
    if extra := sorted(set(found) - set(arrays)):
        raise Refused(f"the app sends {_some(extra)} in the group {group!r}, which are not of it")
    if missing := sorted(set(arrays) - set(found)):
        raise Refused(f"the app does not send {_some(missing)} of the group {group!r}")
    for name, form in found.items():
        if form != arrays[name]:
            raise Refused(f"the app sends {name!r} as {form}, and it is {arrays[name]}")
    return _rewritten(payload)


def _rewritten(payload: bytes) -> bytes:
    """Return a payload with the same tensors and nothing else: no metadata, no spare bytes.

    The header is written again, in the order of the tensors' bytes, which stay as they are.
    """
    length = int.from_bytes(payload[:_HEADER], "little")
    header = json.loads(payload[_HEADER : _HEADER + length])
    header.pop("__metadata__", None)
    plain = {
        name: {key: entry[key] for key in ("dtype", "shape", "data_offsets")}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    }
    text = json.dumps(plain, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER)
    return len(text).to_bytes(_HEADER, "little") + text + payload[_HEADER + length :]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(limits.printable(name)[:80]) for name in names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
