"""The site's own process: every order and every answer passes through it, and the app runs behind it."""

from __future__ import annotations

import hashlib
import io
import logging
import time
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import click
import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Message
from flwr.cli.install import install_from_fab

from models.errors import UserError
from site_guard.answers import Doorkeeper, round_of
from site_guard.appio import Queue, Work
from site_guard.settings import SiteSettings
from site_guard.signatures import public_keys, require_signature
from site_guard.warm import AppFailed, Task, WarmProcess, bundle_folder
from strategies import wire
from strategies.wire import NotNow, Refused

logger = logging.getLogger("flwr")
POLL = 0.1  # seconds between two looks for work
AWAY = 1.0  # seconds before a SuperNode that could not be reached is tried again
MOST_UNPACKED = 100_000_000  # bytes of a bundle's files; Flower's own limit is 10 MB packed
TRAINS = (wire.TRAIN, wire.ALONE, wire.DEPLOY)


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
    doorkeeper: Doorkeeper = field(init=False)
    keys: tuple[Ed25519PublicKey, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.doorkeeper = Doorkeeper(self.settings)
        self.keys = public_keys(self.settings.bundles.signed_by, "bundles.signed-by")

    def serve(self, queue: Queue) -> None:
        """Answer orders as they come, until the process is told to stop."""
        stopped = self.process.stopping
        self.process.warm_up()
        reachable = True
        while not stopped.is_set():
            try:
                token = queue.claim()
                if token is not None:
                    with queue.work(token) as work:
                        self.handle(work)
                elif not reachable:
                    logger.info("site %s: its SuperNode is there", self.settings.site)
                reachable = True
            except grpc.RpcError as error:
                if reachable:
                    told = error.details() if isinstance(error, grpc.Call) else error
                    logger.warning("site %s: its SuperNode is away: %s", self.settings.site, told)
                reachable = False
                queue.reconnect()
                stopped.wait(AWAY)
                continue
            if token is None:
                self.process.rest()
                stopped.wait(POLL)

    def handle(self, work: Work) -> None:
        """Answer one order; what may not be, and what fails, is answered with its reason."""
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
        work.push(answer)

    def answer(self, work: Work) -> Message:
        """Return the answer that leaves the site.

        Raises
        ------
        Refused
            For a bundle that is not signed as the site wants it, training outside the site's hours,
            a group that the site does not share, or an answer that carries anything else.
        AppFailed
            The app gave no answer.
        """
        message, context = work.message, work.context
        kind = message.metadata.message_type
        bundle = work.bundle.content
        require_signature(bundle, context.run_config.get("signature"), self.keys)
        if kind in TRAINS:
            self.settings.refuse_outside_hours(datetime.now())
        self.doorkeeper.check_order(message)
        task = self._unpacked(bundle, work.run.fab_id, work.run.fab_version)
        before = context.node_config
        context.node_config = dict(self.settings.node_config())
        try:
            left = message.metadata.created_at + message.metadata.ttl - time.time()
            answered = self.process.run(task, message, context, left)
        finally:
            context.node_config = before
        return self.doorkeeper.answer(message, answered)

    def _unpacked(self, bundle: bytes, app_id: str, version: str) -> Task:
        """Unpack a bundle into a folder named by its whole SHA-256, once."""
        digest = hashlib.sha256(bundle).hexdigest()
        folder = bundle_folder(Path(self.settings.cache), digest)
        mark = folder / "path"
        try:
            if not mark.exists():
                _refuse_unreadable(bundle)
                folder.mkdir(parents=True, exist_ok=True)
                unpacked = install_from_fab(bundle, install_dir=folder, skip_prompt=True)
                mark.write_text(str(unpacked))
            return Task(mark.read_text(), app_id, version, digest)
        except OSError as error:
            raise AppFailed(f"the app bundle cannot be unpacked: {error.strerror}") from None
        except Exception as error:  # the bundle is a stranger's: anything in it may be wrong
            told = error.message if isinstance(error, click.ClickException) else repr(error)
            raise Refused(f"the app bundle {digest[:16]} cannot be read: {told[:200]}") from None

    def _failure(self, message: Message, reason: str, *, later: bool = False) -> Message:
        return wire.failure(message, self.settings.site, round_of(message), reason, later=later)


def _refuse_unreadable(bundle: bytes) -> None:
    """Raise ValueError for what is no archive, or would fill the disk."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MOST_UNPACKED:
        raise ValueError(f"it would take {size} bytes unpacked, and {MOST_UNPACKED} are the most")


def make_guard(settings: SiteSettings) -> Guard:
    """Return the guard of a site; raise UserError where its keys cannot be read."""
    for folder in (settings.state, settings.cache):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; the site needs to write there") from None
    process = WarmProcess(settings.bundles.keep_warm, settings.gpu_memory, settings.threads)
    return Guard(settings, process)
