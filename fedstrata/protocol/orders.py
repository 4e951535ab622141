"""Orders: what the server asks of a site, or of a node with a cohort of sites.

An order carries the plan, the round, and the layers of the exchanged groups, each group one
safetensors payload. If the server sends differences, a group has as many payloads as there are
steps from a state that the site has; `CodedGroup` describes them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedstrata.protocol.kinds import LAYERS, ORDER, PLAN, group_of, payloads_of
from fedstrata.protocol.limits import (
    MOST_DURABLE,
    MOST_REPORT_CHARACTERS,
    MOST_STEPS,
    NAME,
    Refused,
)
from fedstrata.support.errors import UserError

Item = TypeVar("Item")
LAST, BEST = "last", "best"  # states of which a site writes its whole model
DEPLOYED = "deployed"  # the last state, fine-tuned by the site


@dataclass(frozen=True)
class CodedGroup:
    """How the layers of a group travel in an order, unless they are whole.

    Parameters
    ----------
    base : str
        Content hash of the state that the steps start from, which the site has; "" if the one
        payload is the whole state, exactly.
    state : str
        Content hash of the state after the steps.
    steps : int
        How many payloads there are, called ``<group>/0`` and so on; 0 if the site has the state.
    tensors : mapping
        Dtype and shape of the group's tensors by name, as in a query: ``float32[64, 3, 7, 7]``.
    """

    base: str
    state: str
    steps: int
    tensors: dict[str, str]


class Order(NamedTuple):
    """An order as a site reads it.

    Parameters
    ----------
    plan : str
        The plan's JSON.
    round : int
        Which round.
    payloads : dict
        Bytes of the layers, by group or by step.
    coded : dict
        How groups travel that are not whole, by group.
    taken : dict
        By group whose coding loses something, the round of the last update of this site that the
        server accepted; 0 for none. With it the site knows which error feedback still counts.
    last : dict
        By site that is asked, the round of its last update that the server took, of whatever
        coding; a site that is missing has none, or its method does not need to know.
    best : int
        The round after which the state was best so far; 0 for none. The site keeps the personal
        layers that belong to it.
    keep, state : str, int
        Of an evaluation: ``last`` or ``best`` where the site is to write its whole model; with
        ``of``, which model of that site is measured, also ``deployed``. Of a
        query: ``best`` where the last model is the best one. And after which round the state is, of
        a model that is written; with which training alone, or in one place, is compared.
    of : str
        Of an evaluation for a cross-site table: whose model is measured. Of ``cross_site=models``
        it is read from that site's folder; of ``updates`` its exchanged layers alone arrive.
    fresh : tuple of str
        Of a run that is measured again: those of the sites asked that trained in no round of it.
        They have no layers of their own; all others that have none have lost them.
    measure : bool
        Of a round: whether the site measures the received layers before it trains.
    durable : tuple of int
        Of a round, where not every round has a checkpoint at the server: the rounds from which the
        server may go on, and those whose error feedback counts there, ascending; 0 for the start.
        The site keeps what those rounds left. Rounds after the last of them may be ordered again.
    """

    plan: str
    round: int
    payloads: dict[str, bytes]
    coded: dict[str, CodedGroup]
    taken: dict[str, int]
    best: int = 0
    keep: str = ""
    state: int = 0
    of: str = ""
    fresh: tuple[str, ...] = ()
    last: Mapping[str, int] = MappingProxyType({})
    measure: bool = True
    durable: tuple[int, ...] = ()


def step_key(group: str, number: int) -> str:
    """Return the name of the payload of a step."""
    return f"{group}/{number}"


def order(
    kind: str,
    node_id: int,
    *,
    plan: str,
    round_number: int,
    layers: Mapping[str, Array],
    ttl: float,
    coded: Mapping[str, CodedGroup] | None = None,
    taken: Mapping[str, int] | None = None,
    members: Sequence[str] = (),
    expected: Mapping[str, int] | None = None,
    best: int = 0,
    keep: str = "",
    state: int = 0,
    of: str = "",
    fresh: Sequence[str] = (),
    last: Mapping[str, int] | None = None,
    measure: bool = True,
    durable: Sequence[int] = (),
) -> Message:
    """Return the message that asks the node for ``kind`` in round ``round_number``.

    ``coded``, ``taken``, ``best``, ``keep``, ``state``, ``of``, ``fresh``, ``last``, ``measure`` and
    ``durable`` are those of `Order`. An order to a cohort names the ``members`` that are asked and,
    by scope, the examples ``expected`` of all sites that are asked: the fixed point of the sums
    depends on them.
    """
    # Flower names a message by the SHA-256 of its content, and accepts an answer from any node that
    # gives this name. The random number keeps the name from nodes that got the same layers.
    record = ConfigRecord({"round": round_number, "nonce": secrets.token_hex(16)})
    if coded:
        record["coded"] = json.dumps({group: asdict(each) for group, each in coded.items()})
    if taken:
        record["taken"] = json.dumps(dict(taken))
    if best:
        record["best"] = best
    if keep:
        record["keep"] = keep
    if state:
        record["state"] = state
    if of:
        record["of"] = of
    if last:
        record["last"] = json.dumps(dict(last))
    if not measure:
        record["measure"] = False
    if durable:
        record["durable"] = list(durable)
    if fresh:
        record["fresh"] = list(fresh)
    if members:
        record["members"] = list(members)
    if expected:
        record["scopes"], record["expected"] = list(expected), list(expected.values())
    content = RecordDict(
        {
            PLAN: ConfigRecord({"json": plan}),
            ORDER: record,
            LAYERS: ArrayRecord(dict(layers)),
        }
    )
    return Message(content, node_id, kind, ttl=ttl, group_id=str(round_number))


def read_order(message: Message) -> Order:
    """Return an order; only its form is checked.

    Raises
    ------
    UserError
        The message is not one that this version of the app sends.
    """
    content = message.content
    try:
        plan, number = content[PLAN]["json"], content[ORDER]["round"]
        payloads = payloads_of(content)
        coded, taken = read_coded(message), _read_taken(content[ORDER].get("taken", "{}"))
        best, state = (content[ORDER].get(key, 0) for key in ("best", "state"))
        keep, of = content[ORDER].get("keep", ""), measured_of(message)
        fresh, last = content[ORDER].get("fresh", []), _read_taken(content[ORDER].get("last", "{}"))
        measure, durable = content[ORDER].get("measure", True), _read_durable(message)
    except (KeyError, TypeError, Refused) as error:
        raise UserError(f"the server's message cannot be read: {error}") from None
    if not isinstance(plan, str) or not isinstance(number, int) or isinstance(number, bool):
        raise UserError("the server's message cannot be read: plan or round has the wrong type")
    rounds = [each for each in (best, state) if type(each) is int and each >= 0]
    if len(rounds) < 2 or keep not in ("", LAST, BEST, *([DEPLOYED] if of else [])):
        raise UserError("the server's message cannot be read: best, state or keep is none")
    if not isinstance(fresh, list) or not isinstance(measure, bool):
        raise UserError("the server's message cannot be read: fresh is no list, or measure no bool")
    return Order(
        *(plan, number, payloads, coded, taken, rounds[0], str(keep), rounds[1], of),
        fresh=tuple(map(str, fresh)),
        last=last,
        measure=measure,
        durable=durable,
    )


def measured_of(message: Message) -> str:
    """Return of which other site an evaluation is to measure the model, or ""; else Refused."""
    record = message.content.get(ORDER)
    of = record.get("of", "") if isinstance(record, ConfigRecord) else ""
    if not isinstance(of, str) or (of and not NAME.fullmatch(of)):
        raise Refused("of is no name of a site")
    return of


def _read_durable(message: Message) -> tuple[int, ...]:
    """Return the rounds whose layers the site keeps; raise Refused for what is none, or too many."""
    found = message.content[ORDER].get("durable", [])
    values = found if isinstance(found, list) else [-1]
    rounds = sorted(each for each in values if type(each) is int and each >= 0)
    if len(rounds) != len(values) or len(rounds) > MOST_DURABLE:
        raise Refused(f"durable is no list of at most {MOST_DURABLE} rounds")
    return tuple(rounds)


def _read_taken(text: object) -> dict[str, int]:
    try:
        taken: dict[str, int] = msgspec.json.decode(str(text), type=dict[str, int])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refused(f"the rounds of accepted updates cannot be read: {error}") from None
    return taken


def read_coded(message: Message) -> dict[str, CodedGroup]:
    """Return how each group of an order travels that is not whole.

    Raises
    ------
    Refused
        It cannot be read, or the payloads are not those that it describes.
    """
    record = message.content.get(ORDER)
    text = record.get("coded", "{}") if isinstance(record, ConfigRecord) else "{}"
    if not isinstance(text, str) or len(text) > MOST_REPORT_CHARACTERS:
        raise Refused("the coded groups are no text, or too long a one")
    try:
        coded = msgspec.json.decode(text, type=dict[str, CodedGroup])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refused(f"the coded groups cannot be read: {error}") from None
    layers = message.content.get(LAYERS)
    # Exactly the steps: one more would be layers that the order does not describe.
    carried = set(layers) if isinstance(layers, ArrayRecord) else set()
    for group, each in coded.items():
        if not 0 <= each.steps <= MOST_STEPS:
            raise Refused(f"group {group!r} in {each.steps} steps, at most {MOST_STEPS} are taken")
        wanted = {step_key(group, number) for number in range(each.steps)}
        if {key for key in carried if group_of(key) == group} != wanted:
            raise Refused(f"the payloads of group {group!r} are not its {each.steps} steps")
        if not each.base and each.steps != 1:
            raise Refused(f"the whole of group {group!r} is in {each.steps} payloads")
    return coded


def read_members(message: Message) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the members that an order to a cohort names, and the examples expected by scope.

    Both are empty in an order to a site, and in a query to all nodes.

    Raises
    ------
    UserError
        The message is not one that this version of the app sends.
    """
    record = message.content[ORDER]
    members, scopes = (_list_of(str, record.get(key, [])) for key in ("members", "scopes"))
    expected = _list_of(int, record.get("expected", []))
    if len(scopes) != len(expected):
        raise UserError("the server's message cannot be read: scopes without their examples")
    return tuple(members), dict(zip(scopes, expected, strict=True))


def _list_of(kind: type[Item], values: object) -> list[Item]:
    """Return ``values`` if it is a list of ``kind``; raise UserError otherwise."""
    if isinstance(values, list) and all(type(value) is kind for value in values):
        return values
    raise UserError("the server's message cannot be read: members or scopes have the wrong type")
