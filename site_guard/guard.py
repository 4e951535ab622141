"""The site's own process: every order and every answer passes through it, the app runs behind it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Message

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.limits import NotNow, Refused
from fedstrata.protocol.plan import Plan
from fedstrata.support.durable import private_folder
from fedstrata.support.ed25519 import public_keys
from fedstrata.support.errors import UserError
from site_guard.answers import AnswerFilter, Requested, round_of
from site_guard.appio import Abandoned, Queue, Work
from site_guard.approvals import BEFORE_APPROVAL, Approvals, Request, Waiting, request_of
from site_guard.audit import SiteAudit
from site_guard.bundles import Bundle
from site_guard.confinement import make_confinement
from site_guard.day_counts import DayCounts
from site_guard.own_model import own_plan
from site_guard.plan_rules import read_plan
from site_guard.settings import SiteSettings
from site_guard.signatures import key_fingerprint, require_signature
from site_guard.warm import AppFailed, WarmProcess

logger = logging.getLogger("flwr")
POLL = 0.1  # seconds between two looks for work
AWAY = 1.0  # seconds before a SuperNode that could not be reached is tried again
TRAINS = (*kinds.UPDATES, kinds.ALONE, kinds.DEPLOY)


@dataclass
class Guard:
    """Answers the orders that reach one site.

    Parameters
    ----------
    settings : SiteSettings
        The site's rules.
    process : WarmProcess
        Where the app runs.
    """

    settings: SiteSettings
    process: WarmProcess
    answer_filter: AnswerFilter = field(init=False)
    audit: SiteAudit = field(init=False)
    keys: tuple[Ed25519PublicKey, ...] = field(init=False)
    approvals: Approvals = field(init=False)
    counts: DayCounts = field(init=False)

    def __post_init__(self) -> None:
        self.answer_filter = AnswerFilter(self.settings)
        folder = self.settings.guard_folder
        self.approvals = Approvals(folder / "approvals", self.settings.site)
        self.counts = DayCounts(folder / "today.json", self.settings.plan)
        self.audit = SiteAudit(self.settings)
        self.keys = public_keys(self.settings.bundles.signed_by, "bundles.signed-by")

    def run(self, queue: Queue) -> None:
        """Answer orders as they come, until the process is to stop."""
        stopped = self.process.stopping
        self.process.warm_up()
        reachable = True
        while not stopped.is_set():
            self.process.alive()
            try:
                token = queue.claim()
                if token is not None:
                    with queue.work(token, self.process.alive) as work:
                        self.handle(work)
                elif not reachable:
                    logger.info("site %s: its SuperNode is there", self.settings.site)
                reachable = True
            except Abandoned as error:
                logger.warning("site %s: a task is dropped: %s", self.settings.site, error)
            except Exception as error:  # the site stays up, whatever its SuperNode does
                self._log_away(error, first=reachable)
                reachable = False
                queue.reconnect()
                stopped.wait(AWAY)
                continue
            if token is None:
                self.process.stop_if_idle()
                stopped.wait(POLL)

    def _log_away(self, error: Exception, *, first: bool) -> None:
        """Log why the SuperNode could not be used; that it is away only the ``first`` time."""
        if not isinstance(error, grpc.RpcError):
            logger.exception("site %s: an answer of its SuperNode is wrong", self.settings.site)
        elif first:
            details = error.details() if isinstance(error, grpc.Call) else error
            logger.warning("site %s: its SuperNode is away: %s", self.settings.site, details)

    def handle(self, work: Work) -> None:
        """Answer one order; one that is refused or fails is answered with the reason."""
        kind, number = work.message.metadata.message_type, round_of(work.message)
        logger.info("site %s: %s, round %d", self.settings.site, kind, number)
        try:
            answer = self.answer(work)
            logger.info("site %s: answers %s, round %d", self.settings.site, kind, number)
        except Refused as error:
            work.failure = f"refused: {error}"
            logger.error(
                "site %s refuses %s, round %d: %s", self.settings.site, kind, number, error
            )
            waits = isinstance(error, Waiting)
            answer = self._failure(
                work.message,
                str(error) if waits else f"refused by the site: {error}",
                later=isinstance(error, NotNow),
            )
        except AppFailed as error:
            work.failure = str(error)
            logger.error("site %s: %s, round %d: %s", self.settings.site, kind, number, error)
            answer = self._failure(work.message, str(error))
        except Exception as error:  # the site stays up, whatever arrives
            work.failure = f"the site's own process failed: {type(error).__name__}"
            logger.exception("site %s, %s, round %d", self.settings.site, kind, number)
            answer = self._failure(work.message, work.failure)
        if work.lost.is_set():
            work.failure = "the SuperNode has given the task up"
            logger.warning("site %s: %s: nobody waits for an answer", self.settings.site, kind)
            self.audit.dropped(work.message, work.failure)
            return
        self.audit.send(work, answer)

    def answer(self, work: Work) -> Message:
        """Return the answer that leaves the site.

        Raises
        ------
        Refused
            Bundle and plan are not signed as the site wants it, the plan breaks a rule, the run is
            not approved, it is outside the site's hours, the order came too late, it asks for a
            group that the site does not share, or the answer has something that may not leave.
        AppFailed
            The app gave no answer.
        """
        self.audit.ordered(work)
        message, context = work.message, work.context
        plan, requested, left = self._admit(work)
        bundle = Bundle(work.bundle.content, work.run.fab_id, work.run.fab_version)
        # The app sees the site's own settings only, and nothing that the SuperNode was started with.
        before = context.node_config
        context.node_config = dict(self.settings.node_config())
        try:
            answered = self.process.run(
                bundle,
                message,
                context,
                left,
                work.lost,
                layers=requested.most_bytes,
            )
        except AppFailed as error:  # an exit status and a length are the app's words, too
            raise AppFailed(self.answer_filter.error_text(str(error))) from None
        finally:
            context.node_config = before
        try:
            filtered = self.answer_filter.filter_answer(message, answered, requested)
        except Refused as error:
            if self.settings.errors == "full":
                raise
            raise Refused(self.answer_filter.error_text(str(error))) from None
        self._check_answer(message, plan, filtered)
        return filtered

    def _admit(self, work: Work) -> tuple[Plan, Requested, float]:
        """Return plan, what is asked for and the seconds left; raise Refused before any work."""
        message, content = work.message, work.bundle.content
        kind, rules = message.metadata.message_type, self.settings.plan
        text, plan = read_plan(message)
        given = work.context.run_config.get("signature")
        signed = require_signature(content, text, given, self.keys, kind)
        plan = own_plan(plan, self.settings)
        rules.check_plan(plan)
        if kind == kinds.SUMS and not plan.wants_sums:
            raise Refused("the order asks for sums that its plan has no use for")
        if kind == kinds.CATEGORIES and not plan.wants_categories:
            raise Refused("the order asks for categories that its plan has no use for")
        rules.check_crossing(plan, kind, orders.measured_of(message))
        requested = self.answer_filter.check_order(message)
        for group, schema in requested.schemas.items():
            rules.check_tensors(group, schema)
        request = request_of(
            work.run.run_id,
            text,
            plan,
            content,
            key_fingerprint(signed.key) if signed else "",
            datetime.now(UTC),
            signed.start if signed else "",
        )
        if self.settings.approve == "ask":
            self._require_approval(request, content, kind)
        if kind in TRAINS:
            self.settings.refuse_outside_hours(datetime.now())
        left = message.metadata.created_at + message.metadata.ttl - time.time()
        if left <= 0:
            raise Refused(
                f"the order had run out {-left:.0f} s before it reached the app: "
                "is this machine's clock right?"
            )
        self.counts.take(trains=kind in kinds.UPDATES)
        if self.settings.approve == "ask" and kind in (kinds.TRAIN, kinds.CROSS):
            self.approvals.count(request)
        return plan, requested, left

    def _require_approval(self, request: Request, bundle: bytes, kind: str) -> None:
        """Raise Refused unless a person of the site approved the run."""
        try:
            self.approvals.require(request, bundle, kind)
            self.approvals.bind(request)
        except Waiting:
            if not self.settings.plan.checkpoint_before_approval or kind not in BEFORE_APPROVAL:
                raise
        except UserError as error:
            logger.error("site %s: %s", self.settings.site, error)
            raise Refused("what was approved here cannot be read: see the site's log") from None

    def _check_answer(self, order: Message, plan: Plan, answer: Message) -> None:
        """Raise Refused for an answer that the plan's rules keep here; it holds for no failure."""
        kind, rules = order.metadata.message_type, self.settings.plan
        if kind in BEFORE_APPROVAL:
            site = answers.read_site_report(answer)
            if not site.error:
                rules.check_site_report(plan, site)
        elif kind in kinds.UPDATES:
            trained = answers.read_round_report(answer)
            if not trained.error:
                rules.check_report(plan, trained)

    def _failure(self, message: Message, reason: str, *, later: bool = False) -> Message:
        return answers.failure(message, self.settings.site, round_of(message), reason, later=later)


def make_guard(settings: SiteSettings, alive: Callable[[], None] = lambda: None) -> Guard:
    """Return the guard of a site; raise UserError where its keys or folders cannot be used.

    Parameters
    ----------
    settings : SiteSettings
        The site's rules.
    alive : callable
        Called at least every few seconds while the guard runs.
    """
    confinement = make_confinement(settings)
    # The app's process makes its own folders, as its own user.
    for folder in () if confinement.user else (settings.state, settings.cache):
        try:
            private_folder(Path(folder))
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; the site needs to write there") from None
    if confinement.user is None:
        # Left by a process that was killed.
        shutil.rmtree(confinement.bundles, ignore_errors=True)
    process = WarmProcess(
        confinement,
        settings.bundles.keep_warm,
        settings.gpu_memory,
        settings.threads,
        alive=alive,
    )
    return Guard(settings, process)
