"""`fedstrata-node`: Flower's SuperNode, which looks often, waits for no dead app and answers in turn."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from flwr.common.constant import SubStatus

from fedstrata.support.errors import UserError

logger = logging.getLogger("flwr")
POLL = 0.5  # seconds between two looks for messages at the SuperLink
BESIDE = 0.1  # seconds between two looks for what the site's own process has pushed
FLOWERS = (3, 0.5)  # seconds that Flower's loop sleeps in either case
SENDING = "yield_object_contents"  # the function in which Flower waits for the pieces of an answer
PATIENCE = 60.0  # seconds for one piece
PAUSE = 5.0  # seconds without a look at a piece after which a wait for it has ended
FETCH, SEND = "_pull_and_store_message", "_push_messages"  # the two halves of Flower's loop


def node(arguments: Sequence[str] | None = None) -> None:
    """Run a SuperNode with Flower's own options and ``--poll``."""
    parser = argparse.ArgumentParser(prog="fedstrata-node", add_help=False, allow_abbrev=False)
    parser.add_argument("--poll", type=float, default=POLL)
    told, others = parser.parse_known_args(arguments)
    if {"-h", "--help"} & set(others):
        print(
            f"fedstrata-node is flower-supernode with one option more:\n\n  --poll SECONDS  between "
            f"two looks for messages at the SuperLink, default {POLL:g}; Flower's own is 3\n"
        )
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    try:
        look_every(start_client_internal, told.poll)
        answer_in_turn(start_client_internal)
    except UserError as error:
        sys.exit(f"{error}")
    sys.argv = ["flower-supernode", *others]
    flower_supernode()


def look_every(loop: ModuleType, poll: float) -> None:
    """Let Flower's module with a SuperNode's loop sleep no longer than ``poll`` seconds.

    Flower 1.31 has no option for it: its loop sleeps 3 seconds after each look that found nothing,
    which is what most of a short round was waited for. And where the site's process was killed in
    the middle of handing an answer over, the loop waits for the rest of it for ever; here it gives
    that answer up after ``PATIENCE`` seconds and goes on, so that the site is there for the next
    round. Only the name ``time`` of that module is another one afterwards.

    Raises
    ------
    UserError
        ``poll`` is not above 0, or the module does not sleep as Flower 1.31 does.
    """
    if not poll > 0:
        raise UserError(f"--poll is {poll:g}: give seconds above 0")
    if getattr(loop, "time", None) is not time:
        raise UserError(
            f"{loop.__name__} does not sleep as that of Flower 1.31 does: use flower-supernode"
        )
    vars(loop)["time"] = SimpleNamespace(sleep=_Sleep(poll))


@dataclass
class _Sleep:
    """Sleeps in Flower's place."""

    poll: float
    _piece: str = ""  # of an answer: what is waited for
    _since: float = 0.0
    _seen: float = 0.0

    def __call__(self, seconds: float) -> None:
        """Sleep for ``seconds`` or less; raise TimeoutError where an answer never becomes whole."""
        caller = sys._getframe(1)
        if caller.f_code.co_name == SENDING:
            self._still(caller.f_locals["tree"].object_id)
        longest = dict(zip(FLOWERS, (self.poll, min(self.poll, BESIDE)), strict=True))
        time.sleep(min(seconds, longest.get(seconds, seconds)))

    def _still(self, piece: str) -> None:
        now = time.monotonic()
        if piece != self._piece or now - self._seen > PAUSE:  # or the wait before has ended
            self._piece, self._since = piece, now
        self._seen = now
        if now - self._since > PATIENCE:
            self._piece = ""
            raise TimeoutError(f"its app did not hand over all of it within {PATIENCE:.0f} s")


def answer_in_turn(loop: ModuleType) -> None:
    """Let Flower's module with a SuperNode's loop send the answer to the message it fetched last.

    The loop fetches a message, waits for *an* answer, sends that, and fetches the next. Flower 1.31
    goes wrong where fetching is cut off. If the run ends meanwhile (its ServerApp or the SuperLink
    died), the loop goes on without waiting, but the site still works on the message; its answer is
    sent in the place of that to the next message, which is sent in the place of that to the one
    after: from then on every answer stays back until the next message comes, so the site is silent
    for every run, until its SuperNode is started again. And if fetching fails for another reason,
    the loop waits for ever for the answer to what nobody was given.

    Here what could not be fetched is taken back, and an answer to anything but the message that was
    fetched last is dropped.

    Raises
    ------
    UserError
        The module has no such halves.
    """
    if missing := [name for name in (FETCH, SEND) if not callable(getattr(loop, name, None))]:
        raise UserError(
            f"{loop.__name__} has no {' and no '.join(missing)}, as that of Flower 1.31 has: use "
            "flower-supernode"
        )
    turn = _Turn(vars(loop)[FETCH], vars(loop)[SEND])
    vars(loop).update({FETCH: turn.fetch, SEND: turn.send})


@dataclass
class _Turn:
    """The two halves of Flower's loop, and the message that both are about."""

    flowers_fetch: Callable[..., int | None]
    flowers_send: Callable[..., None]
    message_id: str = ""

    def fetch(
        self, *, state: Any, object_store: Any, receive: Callable[[], Any], **others: Any
    ) -> int | None:
        """Fetch a message; return its run's id, or None where there is none to answer."""
        self.message_id = ""

        def received() -> Any:
            told = receive()
            if told is not None:
                self.message_id = told[0].metadata.message_id
            return told

        tasks = _Tasks(state)
        run_id = self.flowers_fetch(
            state=tasks, object_store=object_store, receive=received, **others
        )
        if run_id is not None and not tasks.given_up:
            return run_id
        for task_id in tasks.made - tasks.given_up:
            state.finish_task(
                task_id, SubStatus.FAILED, "The run ended while this message was fetched."
            )
            _forget(state, object_store, self.message_id)
        return None

    def send(self, *, state: Any, object_store: Any, **others: Any) -> None:
        """Wait for the answer to what was fetched, and send it."""
        answers = _Answers(state, object_store, self.message_id)
        self.flowers_send(state=answers, object_store=object_store, **others)


@dataclass
class _Tasks:
    """A node's state, which notes the tasks that are made and those that are given up."""

    state: Any
    made: set[int] = field(default_factory=set)
    given_up: set[int] = field(default_factory=set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def create_task(self, **told: Any) -> int | None:
        """Make a task."""
        task_id: int | None = self.state.create_task(**told)
        if task_id is not None:
            self.made.add(task_id)
        return task_id

    def finish_task(self, task_id: int, sub_status: str, details: str) -> Any:
        """Give a task up: while a message is fetched there is no other reason to end one."""
        self.given_up.add(task_id)
        return self.state.finish_task(task_id, sub_status, details)


@dataclass
class _Answers:
    """A node's state with no other answers than those to one message."""

    state: Any
    object_store: Any
    message_id: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def get_messages(self, *, is_reply: bool) -> list[Any]:
        """Return the answers that are there; drop those to another message."""
        wanted = []
        for answer in self.state.get_messages(is_reply=is_reply):
            if answer.metadata.reply_to_message_id == self.message_id:
                wanted.append(answer)
                continue
            logger.info(
                "Nobody waits for answer %s any more: it is dropped.", answer.metadata.message_id
            )
            _forget(self.state, self.object_store, answer.metadata.message_id)
            _forget(self.state, self.object_store, answer.metadata.reply_to_message_id)
        return wanted


def _forget(state: Any, object_store: Any, message_id: str) -> None:
    """Drop a message, and what it carries."""
    state.delete_messages(message_ids=[message_id])
    object_store.delete(message_id)
