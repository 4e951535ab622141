"""The site's own process: every order and every answer passes through it, the app runs behind it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Message

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.limits import NotNow, Refused
from fedstrata.support.durable import private_folder
from fedstrata.support.errors import UserError
from site_guard.answers import AnswerFilter, round_of
from site_guard.appio import Abandoned, Queue, Work
from site_guard.bundles import Bundle
from site_guard.settings import SiteSettings
from site_guard.signatures import public_keys, require_signature
from site_guard.warm import AppFailed, WarmProcess

logger = logging.getLogger("flwr")
POLL = 0.1  # seconds between two looks for work
AWAY = 1.0  # seconds before a SuperNode that could not be reached is tried again
TRAINS = (kinds.TRAIN, kinds.ALONE, kinds.DEPLOY)


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
    keys: tuple[Ed25519PublicKey, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.answer_filter = AnswerFilter(self.settings)
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
            answer = self._failure(
                work.message, f"refused by the site: {error}", later=isinstance(error, NotNow)
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
            return
        work.push(answer)

    def answer(self, work: Work) -> Message:
        """Return the answer that leaves the site.

        Raises
        ------
        Refused
            The bundle is not signed as the site wants it, it is outside the site's hours, the order
            came too late, it asks for a group that the site does not share, or the answer has
            something that may not leave.
        AppFailed
            The app gave no answer.
        """
        message, context = work.message, work.context
        kind = message.metadata.message_type
        content = work.bundle.content
        require_signature(content, context.run_config.get("signature"), self.keys)
        if kind in TRAINS:
            self.settings.refuse_outside_hours(datetime.now())
        requested = self.answer_filter.check_order(message)
        left = message.metadata.created_at + message.metadata.ttl - time.time()
        if left <= 0:
            raise Refused(
                f"the order had run out {-left:.0f} s before it reached the app: "
                "is this machine's clock right?"
            )
        bundle = Bundle(content, work.run.fab_id, work.run.fab_version)
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
            return self.answer_filter.filter_answer(message, answered, requested)
        except Refused as error:
            if self.settings.errors == "full":
                raise
            raise Refused(self.answer_filter.error_text(str(error))) from None

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
    for folder in (settings.state, settings.cache):
        try:
            private_folder(Path(folder))
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; the site needs to write there") from None
    bundles = Path(settings.cache) / "bundles" / settings.site
    shutil.rmtree(bundles, ignore_errors=True)  # left by a process that was killed
    process = WarmProcess(
        bundles, settings.bundles.keep_warm, settings.gpu_memory, settings.threads, alive=alive
    )
    return Guard(settings, process)
