"""Two repairs of Flower's SuperNode, and how long it waits between looks, made when it starts.

All of it changes functions inside Flower, which another version may have written differently. So
nothing is changed before `check_version` has seen a version that the tests were run with.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from fedstrata.support.errors import UserError

logger = logging.getLogger("flwr")
TESTED = ("1.31",)  # Flower's versions, without the last number, that the tests were run with
POLL = 0.5  # seconds between two looks for messages at the SuperLink
SOON, SLOWER = 0.05, 1.25  # seconds until the first look after an answer; each then waits longer
RETRY, RETRY_AT_MOST = 0.05, 0.5  # seconds until a chunk that was not there is asked for again
PUSHED_POLL = 0.1  # seconds between two looks for the answer of the site's own process
CHUNK_POLL = 0.02  # seconds between two looks for the next chunk of an answer
FLOWER_SLEEPS = (3, 0.5)  # seconds that Flower's loop sleeps in either case
SENDING = "yield_object_contents"  # Flower's function that waits for the chunks of an answer
PATIENCE = 60.0  # seconds for one chunk
PAUSE = 5.0  # seconds without a look at a chunk after which a wait for it has ended
PULL = "pull_objects"  # Flower's function that asks for the chunks of a message
FETCH, SEND = "_pull_and_store_message", "_push_messages"  # the two halves of Flower's loop


def prepare(poll: float) -> None:
    """Change Flower's SuperNode in this process; call `start` afterwards.

    Raises
    ------
    UserError
        Flower is of another version, or not as it was in the versions tested; or ``poll`` is wrong.
    """
    check_version(version("flwr"))
    from flwr.supernode import start_client_internal

    look_every(start_client_internal, poll)
    ask_again_soon(start_client_internal)
    answer_in_turn(start_client_internal)


def start(options: Sequence[str]) -> None:
    """Run Flower's SuperNode with its own ``options`` until it ends."""
    from flwr.supernode.cli import flower_supernode

    sys.argv = ["flower-supernode", *options]  # Flower reads its options from there alone
    flower_supernode()


def check_version(installed: str) -> None:
    """Raise UserError where Flower's version is none that the tests were run with."""
    if ".".join(installed.split(".")[:2]) not in TESTED:
        tested = " or ".join(f"{each}.x" for each in TESTED)
        raise UserError(
            f"Flower {installed} is installed, and fedstrata node was tested with Flower {tested} "
            f"alone: install that, pip install 'flwr=={TESTED[-1]}.*', or use flower-supernode"
        )


def look_every(loop: ModuleType, poll: float) -> None:
    """Let the loop of Flower's SuperNode sleep no longer than ``poll`` seconds.

    Flower 1.31 has no option for it. Its loop sleeps 3 seconds after each look that found nothing,
    which is most of the time of a short round. Here the first looks after an answer follow each
    other closely: the next round is near.

    The loop also waits for ever for the rest of an answer if the site's process was killed while
    it handed the answer over. Here it gives that answer up after ``PATIENCE`` seconds, so that the
    site takes part in the next round. Only the name ``time`` of the module is replaced.

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
    _next: float = SOON  # seconds until the next look for a message
    _chunk: str = ""  # of an answer: what Flower waits for
    _since: float = 0.0
    _seen: float = 0.0

    def __call__(self, seconds: float) -> None:
        """Sleep for ``seconds`` or less; raise TimeoutError where an answer never becomes whole."""
        # Flower passes no argument that says what it waits for: the caller's variables do.
        caller = sys._getframe(1)
        pushed_poll = PUSHED_POLL
        if caller.f_code.co_name == SENDING:
            self._check_wait(caller.f_locals["tree"].object_id)
            pushed_poll = CHUNK_POLL
        look, pushed = FLOWER_SLEEPS
        if seconds == look:
            time.sleep(min(seconds, self.poll, self._next))
            self._next = min(self._next * SLOWER, self.poll)
            return
        self._next = SOON  # it has a message
        time.sleep(min(seconds, self.poll, pushed_poll) if seconds == pushed else seconds)

    def _check_wait(self, chunk: str) -> None:
        now = time.monotonic()
        if chunk != self._chunk or now - self._seen > PAUSE:  # or an earlier wait has ended
            self._chunk, self._since = chunk, now
        self._seen = now
        if now - self._since > PATIENCE:
            self._chunk = ""
            raise TimeoutError(f"its app did not hand over all of it within {PATIENCE:.0f} s")


def ask_again_soon(loop: ModuleType) -> None:
    """Let the loop ask again soon for a chunk of a message that is not at the SuperLink yet.

    A message is announced before its chunks are there. Flower asks again after 1 s, then 2, then 4.

    Raises
    ------
    UserError
        The module does not pull chunks as Flower 1.31 does.
    """
    pull = getattr(loop, PULL, None)
    options = {"initial_backoff": RETRY, "backoff_cap": RETRY_AT_MOST, "max_tries_per_object": None}
    if not (
        isinstance(pull, FunctionType) and options.keys() <= (pull.__kwdefaults__ or {}).keys()
    ):
        raise UserError(
            f"{loop.__name__} has no {PULL}, as that of Flower 1.31 has: use flower-supernode"
        )
    vars(loop)[PULL] = partial(pull, **options)


def answer_in_turn(loop: ModuleType) -> None:
    """Let the loop of Flower's SuperNode send the answer to the message that it fetched last.

    The loop fetches a message, waits for *an* answer, sends it, and fetches the next message. In
    Flower 1.31 two things go wrong where fetching is cut off:

    - The run ended meanwhile, since its ServerApp or the SuperLink died. The loop goes on without
      waiting, but the site still works on the message. Its answer is then sent in place of that to
      the next message, and so on: each answer stays back until the next message comes, and the
      site is silent in every run until its SuperNode is started again.
    - Fetching failed for another reason. The loop waits for ever for the answer to a message that
      nobody was given.

    Here a message that could not be fetched is taken back. An answer to any other message than the
    one fetched last is dropped.

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

    flower_fetch: Callable[..., int | None]
    flower_send: Callable[..., None]
    message_id: str = ""

    def fetch(
        self, *, state: Any, object_store: Any, receive: Callable[[], Any], **others: Any
    ) -> int | None:
        """Fetch a message; return its run's id, or None if there is nothing to answer."""
        from flwr.common.constant import SubStatus  # not before the version is checked

        self.message_id = ""

        def received() -> Any:
            message_and_tree = receive()
            if message_and_tree is not None:
                self.message_id = message_and_tree[0].metadata.message_id
            return message_and_tree

        tasks = _RecordedTasks(state)
        run_id = self.flower_fetch(
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
        """Wait for the answer to the message that was fetched, and send it."""
        answers = _AnswersToOne(state, object_store, self.message_id)
        self.flower_send(state=answers, object_store=object_store, **others)


@dataclass
class _RecordedTasks:
    """A node's state that records the tasks which are made and those which are given up."""

    state: Any
    made: set[int] = field(default_factory=set)
    given_up: set[int] = field(default_factory=set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def create_task(self, **options: Any) -> int | None:
        """Make a task."""
        task_id: int | None = self.state.create_task(**options)
        if task_id is not None:
            self.made.add(task_id)
        return task_id

    def finish_task(self, task_id: int, sub_status: str, details: str) -> Any:
        """Give a task up: Flower ends one for no other reason while it fetches a message."""
        self.given_up.add(task_id)
        return self.state.finish_task(task_id, sub_status, details)


@dataclass
class _AnswersToOne:
    """A node's state that has answers to one message only."""

    state: Any
    object_store: Any
    message_id: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def get_messages(self, *, is_reply: bool) -> list[Any]:
        """Return the answers to the one message; drop all others."""
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
