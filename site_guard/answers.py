"""What leaves the site: each answer of the app is read, checked, and written anew from what may leave."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message

from fedstrata.protocol import answers, kinds, limits, orders
from fedstrata.protocol.answers import RoundReport, SiteReport
from fedstrata.protocol.categories import CategoriesReport
from fedstrata.protocol.codings import Codings
from fedstrata.protocol.forms import SAFETENSORS, read_form, size_of
from fedstrata.protocol.knowledge import DOWN_ONLY
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.orders import CodedGroup
from fedstrata.protocol.sums import SumsReport
from site_guard.class_rules import allowed
from site_guard.layers import checked, forms_of
from site_guard.own_model import require_own_model
from site_guard.reports import ReportRules, Schema, check_shape, codings_of, plan_hash, some
from site_guard.reports import round_of as round_of  # for whoever handles orders
from site_guard.settings import SiteSettings

logger = logging.getLogger("flwr")
MOST_IN_QUERY, MOST_IN_REPORT = 200_000, 8_000  # characters: names of tensors; numbers
MOST_CLAIMED = 1 << 33  # bytes of the tensors that an order describes and does not carry
BRIEF = "the app failed: see the site's log"
READERS: Mapping[str, Callable[[Message], answers.AnyReport]] = {
    kinds.QUERY: answers.read_site_report,
    kinds.WEIGHTS: answers.read_site_report,
    kinds.CATEGORIES: answers.read_categories_report,
    kinds.SUMS: answers.read_sums_report,
    kinds.OPEN: answers.read_round_report,
    kinds.TRAIN: answers.read_round_report,
    kinds.CROSS: answers.read_round_report,
    kinds.ALONE: answers.read_round_report,
    kinds.EVALUATE: answers.read_round_report,
    kinds.DEPLOY: answers.read_deploy_report,
}
"""By kind of order: what reads the report of the answer."""
_DTYPES = {code: dtype for dtype, code in SAFETENSORS.items()}


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
    rules: ReportRules = field(init=False)
    # The tensors that the app announced in its last answer to a query, by run.
    _announced: dict[int, dict[str, Schema]] = field(default_factory=dict)
    _opened: dict[int, str] = field(default_factory=dict)  # by run, what its opening was sent

    def __post_init__(self) -> None:
        self.rules = ReportRules(self.settings)

    def check_order(self, message: Message) -> Requested:
        """Return what an order asks for; raise Refused, before any work, for what may not leave.

        An order of a kind that is not in `READERS` is refused as well.

        A server gets back the layers that it sent for training, or for a table of all sites. They
        must be of groups that the site shares, with tensors as the app announced them. Groups that
        go down only are not asked for.
        """
        kind = message.metadata.message_type
        if kind == kinds.POOLED:
            raise Refused("training in one place needs the data of all sites, which stay there")
        if kind not in READERS:  # Flower's apps take "train.default" for "train"
            raise Refused(
                f"the server asks for {limits.printable(kind)[:80]!r}, which is unknown here"
            )
        self.rules.check_order(message)
        if kind not in kinds.UPDATES:
            return Requested({}, Codings({}, {}))
        if kind == kinds.OPEN:
            self._refuse_second_opening(message)
        coded = orders.read_coded(message)
        schemas = _schemas(message, coded)
        for group, schema in schemas.items():
            self._refuse_leaving(group, schema)
            self._refuse_unannounced(message.metadata.run_id, group, schema)
        for group, each in coded.items():
            self.rules.note_state(group, each.state)
        asked = {group: schema for group, schema in schemas.items() if group not in DOWN_ONLY}
        return Requested(asked, Codings({}, {}) if kind == kinds.CROSS else codings_of(message))

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
            for group, schema in report.schemas.items():
                self._refuse_leaving(group, schema)
            require_own_model(order, report, self.settings)
            report, forms = self.rules.site_report(order, report)
            self._announced[order.metadata.run_id] = forms
        elif isinstance(report, SumsReport):
            self.rules.check_sums(order, report)
        elif isinstance(report, CategoriesReport):
            self.rules.check_categories(order, report)
        else:
            self.rules.check_counts(order, report)
            report = allowed(report, kind, self.settings.describe, self.rules.outputs(order))
        if kind not in kinds.UPDATES:
            answers.expect_no_layers(answered)
            return answers.answer(order, report, {})
        layers = {}
        for group, payload in answers.read_payloads(answered).items():
            self._refuse_group(group)
            if group not in requested.schemas:
                raise Refused(f"the app sends group {group!r}, which the server did not ask for")
            coding = requested.codings.from_site(group)
            layers[group] = checked(group, payload, requested.schemas[group], coding)
        return answers.answer(order, report, layers)

    def error_text(self, text: str) -> str:
        """Return what leaves of an error in the app's words; the site's log has all of it."""
        text = limits.one_line(text)
        logger.warning("site %s: the app's error: %s", self.settings.site, text)
        return text if self.settings.errors == "full" else BRIEF

    def _refuse_leaving(self, group: str, schema: Mapping[str, object]) -> None:
        """Raise Refused where a group would leave that may not, or has tensors that may not."""
        if group not in DOWN_ONLY:
            self._refuse_group(group)
            self._refuse_staying(group, schema)

    def _refuse_group(self, group: str) -> None:
        if group not in self.settings.share:
            shared = " and ".join(self.settings.share) or "nothing"
            raise Refused(
                f"this run would send the group {limits.printable(group)[:80]!r}, and this site shares "
                f"{shared}: the partition (groups=...) has to leave it with the site"
            )

    def _refuse_staying(self, group: str, names: Mapping[str, object]) -> None:
        staying = sorted(name for name in names if self.settings.stays(name))
        if staying:
            raise Refused(
                f"this run would send {some(staying)} in the group {group!r}, "
                "which may never leave this site"
            )

    def _refuse_second_opening(self, message: Message) -> None:
        """Raise Refused where a run is opened again, and not alike: it learns something each time.

        With another plan it would, too: that says how the site trains, and on which examples.
        """
        sent = hashlib.sha256(plan_hash(message).encode())
        for key, payload in sorted(_layers(message).items()):
            sent.update(f"{key} {hashlib.sha256(payload).hexdigest()}\n".encode())
        if self._opened.setdefault(message.metadata.run_id, sent.hexdigest()) != sent.hexdigest():
            raise Refused(
                "the server opens the run again with other layers or another plan, and once is enough"
            )

    def _refuse_unannounced(self, run: int, group: str, schema: Schema) -> None:
        if run not in self._announced:  # this process started after the run's query
            return
        announced = self._announced[run].get(group, {})
        if new := sorted(schema.keys() - announced.keys()):
            raise Refused(
                f"the order asks for {some(new)} of {group!r}, which the app did not announce"
            )
        for name, form in schema.items():
            if announced[name] != form:
                raise Refused(f"the order has another shape or dtype of {name!r} than the app")


def _schemas(message: Message, coded: Mapping[str, CodedGroup]) -> dict[str, Schema]:
    """Return dtype and shape of each tensor that an order asks for, by group."""
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
                for name, (code, shape) in forms_of(key, payload).items()
            }
    for schema in schemas.values():
        for name, (dtype, shape) in schema.items():
            if dtype not in SAFETENSORS:
                raise Refused(f"the order asks for {some([name])} as {dtype[:20]!r}")
            check_shape("the order", repr(name), shape)
    claimed = sum(size_of(form) for group in coded for form in schemas[group].values())
    if claimed > MOST_CLAIMED:
        raise Refused(f"the order is about {claimed} bytes, and {MOST_CLAIMED} are the most")
    return schemas


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
