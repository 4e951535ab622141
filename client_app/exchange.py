"""The layers that reach a site and leave it: decoded against known states, coded with error feedback."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from client_app.store import DiskStore
from fedstrata.protocol import payload
from fedstrata.protocol.codec import apply_changes, decode, encode
from fedstrata.protocol.codings import Codings
from fedstrata.protocol.kinds import group_of
from fedstrata.protocol.orders import CodedGroup, step_key
from fedstrata.protocol.payload import PayloadError
from fedstrata.protocol.tensors import content_hash
from fedstrata.support.errors import UserError, private, private_reason
from models.groups import Partition


@dataclass(frozen=True)
class Received:
    """The layers of an order.

    Parameters
    ----------
    tensors : dict
        Every exchanged tensor by name.
    known_states : dict
        Those of the groups that the site has to save: the next order may be differences to them.
    hashes : dict
        The content hash of each such group.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    known_states: dict[str, Tensor] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exchange:
    """How a site reads and writes layers in one run.

    Parameters
    ----------
    partition : Partition
        Which tensors are exchanged.
    codings : Codings
        How each group travels.
    start : mapping of str to Tensor
        The tensors that the run starts from at every site, the exchanged ones among them.
    store : DiskStore
        What the site has on its disk.
    """

    partition: Partition
    codings: Codings
    start: Mapping[str, Tensor]
    store: DiskStore

    def known_states(self, *, started: bool) -> dict[str, tuple[str, ...]]:
        """Return the hashes of what the site has, of each group that may arrive as differences.

        ``started`` is whether it has what the run starts from.
        """
        return {
            group: (
                *([content_hash(self._start(group))] if started else []),
                *self.store.known_states(group),
            )
            for group in self.partition.exchanged_groups()
            if self.codings.to_site(group).remembers
        }

    def read(self, payloads: Mapping[str, bytes], coded: Mapping[str, CodedGroup]) -> Received:
        """Return the layers of an order, checked against the site's own model.

        Raises
        ------
        UserError
            Where a group is missing, too many, or not what the site's model has. Where the site
            lacks the state that the differences are to, or they lead to another one.
        """
        # Exactly the exchanged groups: a personal layer from elsewhere must never be loaded.
        groups = set(self.partition.exchanged_groups())
        there = {key for key in payloads if group_of(key) not in coded} | set(coded)
        if there != groups:
            raise UserError(
                f"the server sent the groups {sorted(there)}, this site exchanges {sorted(groups)}"
            )
        received = Received()
        for group in self.partition.exchanged_groups():
            if group in coded:
                tensors = self._stepped(group, payloads, coded[group])
                received.hashes[group] = coded[group].state
                received.known_states.update(tensors)
            else:
                tensors = self.whole(group, payloads[group])
            received.tensors.update(tensors)
        return received

    def whole(self, group: str, data: bytes) -> dict[str, Tensor]:
        """Return the tensors of a group that travels whole; UserError where the model has others."""
        with _naming(group):
            return payload.decode(data, self.partition.schema(group), max_magnitude=None)

    def error_feedback(self, taken: Mapping[str, int]) -> dict[str, Tensor]:
        """Return what coding has lost of the updates that the server took, by tensor name.

        Parameters
        ----------
        taken : mapping of str to int
            Of which round the last one was, by group. A later update that was not taken never
            reached the sum, and so its error feedback counts for nothing.

        Raises
        ------
        UserError
            Where it cannot be read, or is not of this model.
        """
        feedback: dict[str, Tensor] = {}
        for group, number in taken.items():
            # A run may be resumed with other codings: what an exact one lost is nothing.
            if group in self.partition.exchanged_groups() and self.codings.from_site(group).lossy:
                names = self.partition.exchanged_names(group)
                feedback |= self.store.error_feedback(number, names)
        specs = self.partition.specs
        wrong = sorted(n for n, t in feedback.items() if specs[n].shape != tuple(t.shape))
        if wrong:
            raise UserError(
                "what coding has lost so far does not fit the model of this run: "
                + private(", ".join(wrong[:3]), "it")
                + " differs; start a new run instead of resuming this one"
            )
        return feedback

    def write(
        self,
        trained: Mapping[str, Tensor],
        received: Mapping[str, Tensor],
        feedback: Mapping[str, Tensor],
        groups: Sequence[str],
        number: int,
    ) -> tuple[dict[str, bytes], dict[str, Tensor]]:
        """Return the payload of each group, and the error feedback for the next one.

        Parameters
        ----------
        trained, received, feedback : mapping of str to Tensor
            The exchanged tensors after training and as they arrived; what coding has lost so far.
        groups : sequence of str
            Those to write.
        number : int
            The round; it decides how much `LowRank` keeps.
        """
        update, left = {}, {}
        for group in groups:
            names = self.partition.exchanged_names(group)
            update[group], lost = encode(
                self.codings.from_site(group, number),
                {name: trained[name] for name in names},
                received,
                feedback,
            )
            left.update(lost)
        return update, left

    def owed(self, received: Mapping[str, Tensor], feedback: Mapping[str, Tensor]) -> float | None:
        """Return how large the error feedback is beside the change of its tensors since the start.

        None where coding loses nothing, and before anything has changed.
        """
        changed = _norm(received[name].double() - self.start[name].double() for name in feedback)
        return _norm(feedback.values()) / changed if feedback and changed else None

    def _stepped(
        self, group: str, payloads: Mapping[str, bytes], coded: CodedGroup
    ) -> dict[str, Tensor]:
        """Return a group's state after the steps of an order."""
        schema = self.partition.schema(group)
        if not coded.base:
            state = self.whole(group, payloads[step_key(group, 0)])
        else:
            state, coding = self._base(group, coded.base), self.codings.to_site(group)
            for number in range(coded.steps):
                data = payloads[step_key(group, number)]
                with _naming(group):
                    state = apply_changes(decode(data, schema, coding, max_magnitude=None), state)
        # Differences to another base give numbers as well; only the hash shows that they are wrong.
        if content_hash(state) != coded.state:
            raise UserError(
                f"group {group} from the server: the result is not the state that the order names; "
                "it is sent whole the next time"
            )
        return state

    def _base(self, group: str, wanted: str) -> dict[str, Tensor]:
        """Return the state of that content hash: one that the site received, or the run's start."""
        with private_reason("what the site received before cannot be read"):
            tensors = self.store.received(group, wanted, self.partition.exchanged_names(group))
        if tensors is not None:
            return tensors
        start = self._start(group)
        if content_hash(start) == wanted:
            return start
        raise UserError(
            f"this site lacks the state that the server's differences of group {group} are to; it is "
            "sent whole the next time"
        )

    def _start(self, group: str) -> dict[str, Tensor]:
        return {name: self.start[name] for name in self.partition.exchanged_names(group)}


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


@contextmanager
def _naming(group: str) -> Iterator[None]:
    """Turn what is wrong with a payload from the server into a UserError that names the group."""
    try:
        yield
    except PayloadError as error:
        raise UserError(f"group {group} from the server: {error}") from None
