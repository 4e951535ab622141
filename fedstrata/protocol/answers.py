"""Answers: what a site says in reply to an order, how it is written, and how it is read strictly.

An answer carries a report and, after training, the layers of the groups that are exchanged, each
group one safetensors payload. Any other record makes it invalid. What orders carry is in
`fedstrata.protocol.orders`.

A cohort, several sites on one node, answers with a report of each and the layers of each scope
(``common``, ``task/gender``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from types import MappingProxyType
from typing import TypeVar

import msgspec
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedstrata.protocol.categories import CategoriesReport
from fedstrata.protocol.class_measures import ByClass
from fedstrata.protocol.data_description import DataDescription
from fedstrata.protocol.kinds import (
    CATEGORIES,
    DEPLOY,
    LAYERS,
    QUERY,
    REPORT,
    SUMS,
    payload_array,
    payloads_of,
)
from fedstrata.protocol.limits import (
    DIGEST,
    MOST_AXES,
    MOST_COUNTED,
    MOST_EXAMPLES,
    MOST_KNOWN_STATES,
    MOST_REASON_CHARACTERS,
    MOST_REPORT_CHARACTERS,
    MOST_VALUES,
    MOST_WORD,
    NAME,
    Refused,
    one_line,
    printable,
)
from fedstrata.protocol.measured import MEASURED as MEASURED
from fedstrata.protocol.measured import check_by_class, check_interval, check_metrics, check_outputs
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.offered_models import MODEL_NAME
from fedstrata.protocol.rounding import MOST_OWED, plain, rounded
from fedstrata.protocol.sums import SumsReport, as_record
from fedstrata.protocol.task_kinds import ONE_CLASS_EACH, TaskKind

Report = TypeVar("Report")
Metrics = dict[str, dict[str, float | None]]  # by split, then by name


@dataclass(frozen=True)
class SiteReport:
    """Who a site is, as it answers a query.

    Parameters
    ----------
    site, task : str
        Names; the site goes by ``site`` from then on.
    classes : tuple of str
        The names of the outputs in order: the task's classes, labels or numbers.
    input_shape : tuple of int
        Shape of one input.
    examples : mapping
        Number of examples in ``train``, ``validation`` and ``test``.
    baseline : mapping of str to float
        Measures on the test split of a guess without any input: the commonest training class, the
        commoner value of each label, the mean of the training numbers.
    fingerprints : mapping
        One SHA-256 per exchanged group, over names, shapes and dtypes.
    schemas : mapping
        Per exchanged group, dtype and shape by tensor name: ``float32[64, 3, 7, 7]``.
    holds_weights : bool
        Whether the site has the pre-trained checkpoint of the plan on its disk.
    device : str
        Where it trains, such as ``cpu``.
    versions : mapping
        Versions of Python and of the packages that matter, by name.
    error : str
        Why the site cannot take part, or "".
    known_states : mapping
        Per exchanged group whose layers may arrive as differences, content hashes of the states
        that the site has: its start, and those of the last rounds.
    later : bool
        Beside an error: whether the site may take part later, as one that waits for approval.
    data : DataDescription or None
        What the site says of its data, beside the counts.
    kind : TaskKind
        What is predicted.
    model : str
        Which of the models that the run offers the site has; "" where the run has one network.
    """

    site: str
    task: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    examples: dict[str, int]
    baseline: dict[str, float]
    fingerprints: dict[str, str]
    schemas: dict[str, dict[str, str]]
    holds_weights: bool
    device: str
    versions: dict[str, str]
    error: str
    known_states: dict[str, tuple[str, ...]] = field(default_factory=dict)
    later: bool = False
    data: DataDescription | None = None
    kind: TaskKind = ONE_CLASS_EACH
    model: str = ""


@dataclass(frozen=True)
class RoundReport:
    """What a site did in a round, and how good the model that it received is there.

    Parameters
    ----------
    site : str
        The site's name.
    round : int
        The round of the order; the last one for an evaluation.
    examples : int
        Training examples; the weight of the update.
    steps, planned : int
        Optimizer steps done, and those of a whole round.
    loss : float
        Mean training loss; 0 for an evaluation.
    seconds : float
        Time at the site.
    metrics : mapping
        Per split (``validation``, ``test``): examples, and the measures of the task's kind.
    error : str
        Why there is no update, or "".
    later : bool
        Whether the site may do this at another time: it does not train now.
    numerics : Numerics or None
        What the site computed with; None only beside an error.
    diverged : bool
        Whether there is no update because what the site computed is not finite.
    interval : tuple of float or None
        Of the last evaluation: 95 % bootstrap interval of the leading measure on the test split.
    owed : float or None
        Where coding loses something: the norm of what it has lost so far and not sent since, as a
        share of that of the change of the layers since the run's start.
    by_class : ByClass or None
        Of the last evaluation: measures of each class or label on the test split.
    began_with : int or None
        Of a round that began with older layers of the site's own: of which round, 0 for the start.
    """

    site: str
    round: int
    examples: int
    steps: int
    planned: int
    loss: float
    seconds: float
    metrics: Metrics
    error: str
    later: bool = False
    numerics: Numerics | None = None
    diverged: bool = False
    interval: tuple[float, float] | None = None
    owed: float | None = None
    by_class: ByClass | None = None
    began_with: int | None = None


@dataclass(frozen=True)
class DeployReport:
    """What fine-tuning changed in the final model at a site.

    Parameters
    ----------
    site : str
        The site's name.
    round : int
        The number in the order: one more than the rounds.
    examples : int
        Training examples.
    tuned : int
        Parameter tensors that were fine-tuned. 0 if the site's model has none in the chosen groups;
        ``after`` equals ``before`` then.
    steps, planned : int
        Optimizer steps done, and those of the whole fine-tuning.
    loss : float
        Mean training loss; 0 if nothing was tuned.
    seconds : float
        Time at the site.
    before, after : mapping
        As ``metrics`` in :class:`RoundReport`: of the final layers with the site's own personal
        layers, before and after fine-tuning.
    error : str
        Why there are no metrics, or "".
    later : bool
        Whether the site may do this at another time: it does not train now.
    numerics : Numerics or None
        As in :class:`RoundReport`.
    before_by_class, after_by_class : ByClass or None
        As ``by_class`` in :class:`RoundReport`, before and after fine-tuning.
    """

    site: str
    round: int
    examples: int
    tuned: int
    steps: int
    planned: int
    loss: float
    seconds: float
    before: Metrics
    after: Metrics
    error: str
    later: bool = False
    numerics: Numerics | None = None
    before_by_class: ByClass | None = None
    after_by_class: ByClass | None = None


AnyReport = SiteReport | RoundReport | DeployReport | SumsReport | CategoriesReport
OPTIONAL: Mapping[type, tuple[str, ...]] = MappingProxyType(
    {
        SiteReport: ("known_states", "later", "data", "kind", "model"),
        RoundReport: ("diverged", "interval", "owed", "by_class", "began_with"),
        DeployReport: ("later", "before_by_class", "after_by_class"),
        SumsReport: ("later",),
        CategoriesReport: ("later",),
    }
)
"""Fields that a report may lack: they travel only where they are not as usual."""


def answer(message: Message, report: AnyReport, layers: Mapping[str, bytes]) -> Message:
    """Return the answer to ``message``: the report and the payload of each exchanged group."""
    content = RecordDict(
        {
            REPORT: ConfigRecord({"json": to_json(report)}),
            LAYERS: ArrayRecord({group: payload_array(data) for group, data in layers.items()}),
        }
    )
    return Message(content, reply_to=message)


def to_json(report: AnyReport) -> str:
    """Return a report as JSON: rounded, in one order, without optional fields that are as usual."""
    record = as_record(report) if isinstance(report, SumsReport) else rounded(plain(report))
    for each in fields(report):
        usual = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name in OPTIONAL[type(report)] and getattr(report, each.name) == usual:
            del record[each.name]
    if record["error"]:
        # Not escaped: as ``\\uXXXX`` a long text could exceed what the site's process lets out.
        text = json.dumps(record, ensure_ascii=False, sort_keys=True)
        return text.encode(errors="replace").decode()
    return json.dumps(record, sort_keys=True)


def failure(
    message: Message,
    site: str,
    round_number: int,
    reason: str,
    *,
    later: bool = False,
    diverged: bool = False,
) -> Message:
    """Return the answer, without layers, that says why ``site`` cannot do what ``message`` asks."""
    kind = message.metadata.message_type
    report = failure_report(kind, site, round_number, reason, later=later, diverged=diverged)
    return answer(message, report, {})


def failure_report(
    kind: str,
    site: str,
    round_number: int,
    reason: str,
    *,
    later: bool = False,
    diverged: bool = False,
) -> AnyReport:
    """Return the report that says why ``site`` cannot do what an order of ``kind`` asks."""
    why = reason[:MOST_REASON_CHARACTERS]
    if kind == SUMS:
        return SumsReport(site, error=why, later=later)
    if kind == CATEGORIES:
        return CategoriesReport(site, error=why, later=later)
    if kind.startswith(QUERY):
        return SiteReport(site, "", (), (), {}, {}, {}, {}, False, "", {}, why, later=later)
    if kind == DEPLOY:
        return DeployReport(site, round_number, 0, 0, 0, 0, 0.0, 0.0, {}, {}, why, later)
    return RoundReport(site, round_number, 0, 0, 0, 0.0, 0.0, {}, why, later, diverged=diverged)


def read_site_report(message: Message) -> SiteReport:
    """Return the report in an answer to a query; raise Refused if it cannot be read."""
    report = _read_report(SiteReport, message)
    if report.site and not NAME.fullmatch(report.site):
        raise Refused(f"calls itself {printable(report.site)[:80]!r}, which is no site's name")
    if report.error:
        return replace(report, error=one_line(report.error))
    if not NAME.fullmatch(report.task):
        raise Refused(f"names the task {printable(report.task)[:80]!r}, which is no task's name")
    counts = report.examples
    if set(counts) != {"train", "validation", "test"} or not all(
        0 < n <= MOST_EXAMPLES for n in counts.values()
    ):
        raise Refused(
            f"examples of {report.site!r} make no sense: {counts}; each split has 1 to {MOST_EXAMPLES}"
        )
    if not report.site:
        raise Refused("a site needs a name")
    if report.model and not MODEL_NAME.fullmatch(report.model):
        raise Refused(f"names the model {printable(report.model)[:80]!r}, which is no model's name")
    check_outputs(report.kind, report.classes, report.baseline)
    words = [*report.classes, report.device, *report.versions, *report.versions.values()]
    if any(word != printable(word) or len(word) > MOST_WORD for word in words):
        raise Refused(
            "class names, device and versions must be printable, at most "
            f"{MOST_WORD} characters each"
        )
    for group, hashes in report.known_states.items():
        if len(hashes) > MOST_KNOWN_STATES or not all(DIGEST.fullmatch(each) for each in hashes):
            raise Refused(f"known states of {printable(group)[:80]!r} are no list of SHA-256")
    if report.data is not None:
        report.data.check()
    shape = report.input_shape
    sizes = 0 < len(shape) <= MOST_AXES and all(size > 0 for size in shape)
    if not sizes or math.prod(shape) > MOST_VALUES:
        raise Refused(f"the shape of one input makes no sense: {str(shape)[:MOST_WORD]}")
    return report


def read_sums_report(message: Message) -> SumsReport:
    """Return a site's sums; raise Refused if they cannot be read, or are impossible."""
    return _read_report(SumsReport, message).checked()


def read_categories_report(message: Message) -> CategoriesReport:
    """Return a site's categories; raise Refused if they cannot be read, or are no names."""
    return _read_report(CategoriesReport, message).checked()


def read_round_report(message: Message) -> RoundReport:
    """Return a site's report of a round; raise Refused if it cannot be read."""
    report = _read_report(RoundReport, message)
    report = replace(report, error=one_line(report.error))
    check_metrics(report.metrics)
    check_interval(report.interval, report.metrics)
    check_by_class(report.by_class, report.metrics)
    if report.owed is not None and not 0 <= report.owed <= MOST_OWED:
        raise Refused(f"owed is {report.owed}")
    if not 0 <= (report.began_with or 0) < max(report.round, 1):
        raise Refused(f"round {report.round} began with layers of round {report.began_with}")
    _check_finite(report)
    _check_numerics(report)
    return report


def read_deploy_report(message: Message) -> DeployReport:
    """Return a site's report of its fine-tuning; raise Refused if it cannot be read.

    A report without an error has metrics of both splits, before and after. Its steps, tensors and
    examples make sense. If nothing was tuned, the metrics before and after are the same.
    """
    report = _read_report(DeployReport, message)
    report = replace(report, error=one_line(report.error))
    for measured, by_class in (
        (report.before, report.before_by_class),
        (report.after, report.after_by_class),
    ):
        check_metrics(measured)
        check_by_class(by_class, measured)
    _check_finite(report)
    _check_numerics(report)
    if report.error:
        return report
    for when, metrics in (("before", report.before), ("after", report.after)):
        if set(metrics) != set(MEASURED):
            raise Refused(f"carries no metrics of {' and '.join(MEASURED)} {when} fine-tuning")
    if not 0 <= report.steps <= report.planned < MOST_COUNTED:
        raise Refused(f"did {report.steps} of {report.planned} steps")
    if not 0 < report.examples < MOST_COUNTED or not 0 <= report.tuned < MOST_COUNTED:
        raise Refused(f"tuned {report.tuned} tensors on {report.examples} examples")
    same = report.before == report.after and report.before_by_class == report.after_by_class
    if not report.tuned and (report.steps or not same):
        raise Refused("says that nothing was tuned, but what it measured changed")
    return report


def _check_finite(report: RoundReport | DeployReport) -> None:
    for name in ("loss", "seconds"):
        if not math.isfinite(getattr(report, name)):
            raise Refused(f"{name} is {getattr(report, name)}")


def _check_numerics(report: RoundReport | DeployReport) -> None:
    if report.numerics is not None:
        report.numerics.check()
    elif not report.error:
        raise Refused("does not say what it computed with (numerics)")


def read_payloads(message: Message) -> dict[str, bytes]:
    """Return the payload bytes of an answer by group; raise Refused for anything else in it."""
    extra = set(message.content) - {REPORT, LAYERS}
    if extra:
        raise Refused(f"carries records that do not belong there: {', '.join(sorted(extra))}")
    return payloads_of(message.content)


def expect_no_layers(message: Message) -> None:
    """Raise Refused if an answer carries layers, or anything else besides its report."""
    if groups := read_payloads(message):
        raise Refused(f"carries layers that nobody asked for: {', '.join(sorted(groups))}")


def _read_report(cls: type[Report], message: Message) -> Report:
    try:
        text = message.content[REPORT]["json"]
    except (KeyError, TypeError):
        raise Refused(f"carries no {REPORT!r}") from None
    if not isinstance(text, str) or len(text) > MOST_REPORT_CHARACTERS:
        raise Refused(f"{REPORT!r} is not a text of at most {MOST_REPORT_CHARACTERS} characters")
    names = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    try:
        record = json.loads(text)
        if not isinstance(record, dict):
            raise Refused(f"{REPORT!r} is no JSON object")
        if not names - set(OPTIONAL[cls]) <= record.keys() <= names:
            wrong = ", ".join(sorted(record.keys() ^ names))
            raise Refused(f"{REPORT!r} has fields too few or too many: {wrong[:200]}")
        return msgspec.convert(record, cls)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise Refused(f"{REPORT!r} cannot be read: {error}") from None
