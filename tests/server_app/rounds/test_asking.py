"""What an order has a site keep: what belongs to the server's checkpoints, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from fedstrata.protocol.codings import read_codings
from models.groups import partition_tensors
from models.networks import build
from server_app.compose import compose
from server_app.rounds.asking import durable, round_ask, taken
from server_app.rounds.state import ServerState
from strategies.methods import make_method
from tests.helpers.members import member

NETWORK = build("mlp", input_shape=(6,), classes=2, head=[], hidden=[5, 4])
ENTRIES = {"common": ["fc1"], "task": ["fc2"], "personal": ["head"]}


def state_of(**coding: str) -> ServerState:
    """Return a state of one task, with these codings of what sites send."""
    aggregators = {group: {"name": "fedavg"} for group in ("common", "task")}
    codings = read_codings({group: {"name": name} for group, name in coding.items()}, {})
    state = ServerState(make_method({"name": "layers"}), aggregators, codings=codings)
    state.add_task("grade", partition_tensors(NETWORK, ENTRIES), NETWORK.state_dict())
    return state


def entry(number: int, *participants: str, **more: Any) -> dict[str, Any]:
    sites = {name: {"kind": "classes", "validation": {"accuracy": number}} for name in participants}
    return {"round": number, "participants": participants, "kept": {}, "sites": sites, **more}


HISTORY = [entry(1, "north"), *(entry(n, "south") for n in (2, 3)), entry(4, "north", "south")]
HISTORY += [entry(5, "north", kept={"common": "too few"}), entry(6, "south")]


def test_the_update_that_counted_is_named_where_coding_loses_something() -> None:
    north = member("north")
    assert taken(state_of(), north, HISTORY) == {}
    assert taken(state_of(common="bfloat16"), north, HISTORY) == {"common": 4}
    assert taken(state_of(common="bfloat16"), north, HISTORY[:3]) == {"common": 1}


@pytest.mark.parametrize(
    ("coding", "checkpoints", "rounds"),
    [
        ({}, [], []),
        ({}, [0], [0]),
        ({}, [2, 5], [2, 5]),
        ({"common": "bfloat16"}, [0], [0]),
        ({"common": "bfloat16"}, [3, 6], [1, 3, 4, 6]),
        ({"common": "bfloat16", "task": "bfloat16"}, [3, 6], [1, 3, 4, 5, 6]),
    ],
)
def test_a_site_keeps_what_its_next_update_from_a_checkpoint_needs(
    coding: dict[str, str], checkpoints: list[int], rounds: list[int]
) -> None:
    assert durable(state_of(**coding), member("north"), HISTORY, checkpoints) == rounds


def test_a_site_of_a_cohort_has_no_error_feedback_to_keep() -> None:
    inside = member("north", in_cohort=True)
    assert durable(state_of(common="bfloat16"), inside, HISTORY, [3, 6]) == [3, 6]


def test_an_order_says_whether_to_measure_and_which_state_is_the_best_that_is_saved() -> None:
    chosen = ("strategy.evaluate_every=3", "strategy.checkpoint_every=2")
    config = compose("faces", chosen)
    asked = [member("north"), member("south")]
    asks = {
        number: round_ask(
            *(state_of(), config.strategy, config.choose, number, asked, {}, HISTORY),
            checkpoints=[4, 6],
        )
        for number in (7, 8)
    }
    assert (asks[7].measure, asks[8].measure) == (True, False)
    assert asks[7].best == 4  # round 6 measured the state after round 5, which has no checkpoint
    assert asks[7].durable == {"north": [4, 6], "south": [4, 6]}
    assert asks[7].last == {"north": 4, "south": 6}
