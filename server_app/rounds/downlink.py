"""What each site is sent of a group whose layers travel down as differences.

The server keeps two states: the one that it has learned, and the one that it has *published*, which
is what a site has that received everything. Each round it publishes the difference between the two.
It codes the difference once, for all sites alike, and applies to its own copy what coding made of
it. So what coding loses is in the difference of the next round (error feedback; Tang et al. 2019,
DoubleSqueeze).

Published states are known by their content hash. A site that has an earlier one is sent the
differences since, one after the other. A site that has none of them, or too old a one, is sent the
published state itself, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Array
from torch import Tensor

from fedstrata.protocol import payload
from fedstrata.protocol.codec import apply_changes, decode, encode, forms
from fedstrata.protocol.codings import Coding, Codings
from fedstrata.protocol.forms import describe_form
from fedstrata.protocol.kinds import payload_array
from fedstrata.protocol.limits import KNOWN_ROUNDS, MOST_STEPS
from fedstrata.protocol.orders import CodedGroup, step_key
from fedstrata.protocol.tensors import TensorSpec, content_hash


@dataclass(frozen=True)
class Step:
    """A difference between two published states, by their hashes."""

    base: str
    state: str
    array: Array


@dataclass
class Published:
    """The state of a group and scope at sites that have received everything.

    Parameters
    ----------
    tensors : dict of str to Tensor
        The state, by tensor name.
    number : int
        The round it was published for; -1 before the first.
    steps : list of Step
        The last differences, the latest at the end; each begins where the one before ends.
    hash : str
        Of the state.
    schema, described : dict
        Of its tensors, by name, and as an order has that.
    """

    tensors: dict[str, Tensor]
    number: int = -1
    steps: list[Step] = field(default_factory=list)
    hash: str = field(init=False)
    schema: dict[str, TensorSpec] = field(init=False)
    described: dict[str, str] = field(init=False)
    _whole: Array | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.hash = content_hash(self.tensors)
        self.schema = {name: TensorSpec.of(tensor) for name, tensor in self.tensors.items()}
        self.described = {name: describe_form(form) for name, form in forms(self.schema).items()}

    @property
    def size(self) -> int:
        """Bytes of the state itself."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def publish(self, coding: Coding, number: int, state: Mapping[str, Tensor]) -> None:
        """Come as near to ``state`` as the coding does, once in a round."""
        if number == self.number:
            return
        self.number, self._whole = number, None
        data, _ = encode(coding, state, self.tensors, {})
        changes = decode(data, self.schema, coding, max_magnitude=None)
        self.tensors = apply_changes(changes, self.tensors)
        before, self.hash = self.hash, content_hash(self.tensors)
        if before == self.hash:
            return
        self.steps.append(Step(before, self.hash, payload_array(data)))
        while len(self.steps) > 1 and (len(self.steps) > MOST_STEPS or self._long):
            self.steps.pop(0)

    @property
    def _long(self) -> bool:
        """Whether all steps are no less than the state itself."""
        return sum(len(step.array.data) for step in self.steps) >= self.size

    def whole(self) -> Array:
        """Return the payload of the state itself, made once in a round."""
        if self._whole is None:
            self._whole = payload_array(payload.encode(self.tensors))
        return self._whole

    def since(self, known_states: frozenset[str]) -> list[Step] | None:
        """Return the fewest steps from one of ``known_states``; None where there is no way."""
        if self.hash in known_states:
            return []
        for start in range(len(self.steps) - 1, -1, -1):
            if self.steps[start].base in known_states:
                return self.steps[start:]
        return None


@dataclass
class _Site:
    """The states that a site is known to have, by group, and the orders left without an update."""

    known_states: dict[str, frozenset[str]]
    unanswered: int = 0


class Downlink:
    """Published states by scope key, and which of them each site has.

    Parameters
    ----------
    codings : Codings
        How each group travels.
    """

    def __init__(self, codings: Codings) -> None:
        self.codings = codings
        self.published: dict[str, Published] = {}
        self._sites: dict[str, _Site] = {}

    def remembers(self, group: str) -> bool:
        """Return whether sites keep what they are sent of ``group``."""
        return self.codings.to_site(group).remembers

    def begin(self, group: str, key: str, state: Mapping[str, Tensor]) -> None:
        """Publish ``state``, what a run starts from: every site makes that itself."""
        if self.remembers(group):
            self.published[key] = Published(dict(state))

    def received(self, key: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what the sites of a round trained from: what is published, or ``state`` itself."""
        return self.published[key].tensors if key in self.published else state

    def note_known(self, site: str, known_states: Mapping[str, tuple[str, ...]]) -> None:
        """Note which states a site says that it has, for groups that travel as differences."""
        self._sites[site] = _Site(
            {
                group: frozenset(hashes)
                for group, hashes in known_states.items()
                if self.remembers(group)
            }
        )

    def answered(self, site: str, keys: Mapping[str, str]) -> None:
        """Note that a site sent its update of a round, and so has kept what it was sent.

        Parameters
        ----------
        keys : mapping of str to str
            The scope key of each group of the site.
        """
        there = {
            g: frozenset([self.published[k].hash]) for g, k in keys.items() if k in self.published
        }
        self._sites[site] = _Site(there)

    def failed(self, site: str) -> bool:
        """Forget the states of a site that could not do what was asked: it may have lost them.

        Return whether there was anything to forget.
        """
        known = self._sites.pop(site, None)
        return known is not None and any(known.known_states.values())

    def unanswered(self, site: str) -> None:
        """Note that an order to train brought no answer: the site may have trained all the same.

        After as many as it keeps rounds, it may have lost the base of its last update.
        """
        if site in self._sites:
            self._sites[site].unanswered += 1

    def payloads(
        self, site: str, group: str, key: str, number: int, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Array], CodedGroup]:
        """Return the payloads of a group for a site in round ``number``, and what they are.

        Parameters
        ----------
        state : mapping of str to Tensor
            What the server has learned of the group and scope ``key``.
        """
        published = self.published[key]
        published.publish(self.codings.to_site(group, number), number, state)
        known = self._sites.get(site)
        known_states = known.known_states.get(group, frozenset()) if known else frozenset[str]()
        if known and known.unanswered >= KNOWN_ROUNDS:
            known_states = frozenset()
        steps = published.since(known_states)
        if steps is None:
            whole = {step_key(group, 0): published.whole()}
            return whole, CodedGroup("", published.hash, 1, published.described)
        base = steps[0].base if steps else published.hash
        arrays = {step_key(group, place): step.array for place, step in enumerate(steps)}
        return arrays, CodedGroup(base, published.hash, len(steps), published.described)
