"""Orders: what the server asks of a site, or of a node that holds a cohort of sites."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, TypeVar

import msgspec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedstrata.protocol.kinds import LAYERS, ORDER, PLAN, group_of, payloads_of
from fedstrata.protocol.limits import MOST_REPORT_CHARACTERS, MOST_STEPS, Refused
from fedstrata.support.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class CodedGroup:
    """What an order says of a group that it does not simply carry whole.

    Parameters
    ----------
    base : str
        Content hash of the state that the steps start from, which the site holds; "" where the one
        payload is the whole state, exactly.
    state : str
        Content hash of what comes out.
    steps : int
        How many payloads there are, called ``<group>/0`` and so on; none where the site has it all.
    tensors : mapping
        Dtype and shape of the group's tensors by name, as in a query: ``float32[64, 3, 7, 7]``.
    """

    base: str
    state: str
    steps: int
    tensors: dict[str, str]


class Order(NamedTuple):
    """An order as a site reads it.

    The plan's JSON, the round, payloads, what is coded, and of which round the site's last update
    was that the server took, by group, for those in which coding loses something.
    """

    plan: str
    round: int
    payloads: dict[str, bytes]
    coded: dict[str, CodedGroup]
    taken: dict[str, int]


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
) -> Message:
    """Return the message that asks the node for ``kind`` in round ``round_number``.

    ``taken`` is of which round the site's last update is that was taken, by group; 0 for none.

    To a cohort it names the ``members`` that are asked and, by scope, the examples ``expected`` of
    all sites asked, on which the sums' fixed point hangs.

    Flower names a message by the SHA-256 of its content, and takes whoever writes that name under
    an answer for the node that was asked. So each order holds a random number: nobody but the node
    that got it, not even one that got the same layers at the same time, can name it.
    """
    told = ConfigRecord({"round": round_number, "nonce": secrets.token_hex(16)})
    if coded:
        told["coded"] = json.dumps({group: asdict(each) for group, each in coded.items()})
    if taken:
        told["taken"] = json.dumps(dict(taken))
    if members:
        told["members"] = list(members)
    if expected:
        told["scopes"], told["expected"] = list(expected), list(expected.values())
    content = RecordDict(
        {
            PLAN: ConfigRecord({"json": plan}),
            ORDER: told,
            LAYERS: ArrayRecord(dict(layers)),
        }
    )
    return Message(content, node_id, kind, ttl=ttl, group_id=str(round_number))


def read_order(message: Message) -> Order:
    """Return an order, checked for shape alone.

    Raises
    ------
    UserError
        Where the message is not one that this version of the app sends.
    """
    content = message.content
    try:
        plan, number = content[PLAN]["json"], content[ORDER]["round"]
        payloads = payloads_of(content)
        coded, taken = read_coded(message), _read_taken(content[ORDER].get("taken", "{}"))
    except (KeyError, TypeError, Refused) as error:
        raise UserError(f"the server's message cannot be read: {error}") from None
    if not isinstance(plan, str) or not isinstance(number, int) or isinstance(number, bool):
        raise UserError("the server's message cannot be read: plan or round has the wrong type")
    return Order(plan, number, payloads, coded, taken)


def _read_taken(text: object) -> dict[str, int]:
    try:
        taken: dict[str, int] = msgspec.json.decode(str(text), type=dict[str, int])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refused(f"which updates were taken cannot be read: {error}") from None
    return taken


def read_coded(message: Message) -> dict[str, CodedGroup]:
    """Return what an order says of each group that it does not simply carry whole.

    Raises
    ------
    Refused
        Where it cannot be read, or the payloads are not those that it tells of.
    """
    record = message.content.get(ORDER)
    text = record.get("coded", "{}") if isinstance(record, ConfigRecord) else "{}"
    if not isinstance(text, str) or len(text) > MOST_REPORT_CHARACTERS:
        raise Refused("what is coded is no text, or a long one")
    try:
        coded = msgspec.json.decode(text, type=dict[str, CodedGroup])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refused(f"what is coded cannot be read: {error}") from None
    layers = message.content.get(LAYERS)
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

    Both are empty in an order to a site, and in a query of whoever is there.

    Raises
    ------
    UserError
        Where the message is not one that this version of the app sends.
    """
    told = message.content[ORDER]
    members, scopes = (_all(str, told.get(key, [])) for key in ("members", "scopes"))
    expected = _all(int, told.get("expected", []))
    if len(scopes) != len(expected):
        raise UserError("the server's message cannot be read: scopes without their examples")
    return tuple(members), dict(zip(scopes, expected, strict=True))


def _all(kind: type[Item], values: object) -> list[Item]:
    """Return ``values``, a list of ``kind`` and nothing else; or raise UserError."""
    if isinstance(values, list) and all(type(value) is kind for value in values):
        return values
    raise UserError("the server's message cannot be read: members or scopes have the wrong type")
