"""What the server has learned: begun, added to, finished, saved and loaded."""

from __future__ import annotations

import pytest
import torch

from fedstrata.support.errors import UserError
from models.groups import Partition
from models.networks import build
from server_app.rounds.contribution import Contribution
from server_app.rounds.state import GroupCheckpoint, ServerState
from strategies.aggregators.base import Options, RoundFacts
from strategies.aggregators.fedavg import FedAvg
from strategies.methods import make_method
from tests.helpers.partitions import partition_of

NETWORK = build("mlp", input_shape=(6,), classes=2, head=[], hidden=[5])
PARTITION: Partition = partition_of(NETWORK, {"common": ["fc1"], "task": ["head"]})
AGGREGATORS = {
    "common": {"name": "fedavg"},
    "task": {"name": "fedavgm", "server_learning_rate": 1.0, "server_momentum": 0.9},
}


def state(**changes: object) -> ServerState:
    made = ServerState(make_method({"name": "layers"}), {**AGGREGATORS, **changes})
    for task in ("grade", "stage"):
        made.add_task(task, PARTITION, NETWORK.state_dict())
    return made


def update(made: ServerState, key: str, site: str, shift: float) -> dict[str, Contribution]:
    tensors = {name: tensor + shift for name, tensor in made.states[key].items()}
    return {key: Contribution({site: 10}, tensors, 1)}


def test_a_task_shares_what_is_for_all_sites_and_has_its_own_scope() -> None:
    made = state()
    assert made.keys() == ["common", "task/grade", "task/stage"]
    assert made.scope_keys("stage") == {"common": "common", "task": "task/stage"}
    assert made.aggregators["task/grade"] is not made.aggregators["task/stage"]


def test_the_examples_expected_of_a_scope_are_those_of_its_sites() -> None:
    made = state()
    expected = made.begin_round(
        {"a": 10, "b": 5, "c": 1}, {"a": "grade", "b": "grade", "c": "stage"}
    )
    assert expected == {"common": 16, "task/grade": 15, "task/stage": 1}


def test_a_scope_without_an_answer_keeps_its_state() -> None:
    made = state()
    before = dict(made.states)
    made.begin_round({"a": 10, "b": 10}, {"a": "grade", "b": "stage"})
    made.add(update(made, "common", "a", 1.0))
    kept, _ = made.finish_round({"common": 1, "task/grade": 0, "task/stage": 0})
    assert kept == dict.fromkeys(("task/grade", "task/stage"), "no update")
    assert made.states["task/grade"] is before["task/grade"]
    assert torch.allclose(made.states["common"]["fc1.bias"], before["common"]["fc1.bias"] + 1)


def test_what_a_checkpoint_has_is_loaded_with_its_task_and_saved_until_then() -> None:
    made = state()
    made.begin_round({"a": 10}, {"a": "grade"})
    made.add(update(made, "task/grade", "a", 1.0))
    made.finish_round({"task/grade": 1})
    saved = made.to_checkpoints()
    resumed = state()
    resumed.checkpoints = {"task/grade": saved["task/grade"], "task/other": saved["task/grade"]}
    resumed.load("task/grade")
    assert torch.equal(
        resumed.states["task/grade"]["head.out.bias"], made.states["task/grade"]["head.out.bias"]
    )
    optimizer = resumed.to_checkpoints()["task/grade"].optimizer
    assert optimizer.keys() == saved["task/grade"].optimizer.keys() != set()
    assert "task/other" in resumed.to_checkpoints()
    assert "task/other" in list(resumed.keys())


def test_a_checkpoint_of_other_shapes_does_not_fit() -> None:
    made = state()
    tensors = {"fc1.weight": torch.zeros(1, 1)}
    made.checkpoints["common"] = GroupCheckpoint(tensors, {}, {})
    assert not made.fits("common", made.states["common"])
    assert made.fits("task/grade", made.states["task/grade"])


def test_a_group_without_an_aggregator_is_named() -> None:
    made = ServerState(make_method({"name": "layers"}), {"common": {"name": "fedavg"}})
    with pytest.raises(UserError, match=r"aggregators has no entry for group 'task'"):
        made.add_task("grade", PARTITION, NETWORK.state_dict())


def test_a_rule_that_needs_each_update_is_refused_where_nodes_send_sums() -> None:
    options = {"common": {"name": "median", "memory_mb": 10}}
    made = ServerState(make_method({"name": "layers"}), options, sums=True)
    with pytest.raises(UserError, match=r"Median needs each site's own update"):
        made.aggregator("common")


class Reader(FedAvg):
    """Takes the facts of a round."""

    learns = True
    reads = ("common",)

    def inform(self, facts: RoundFacts) -> None:
        self.facts = facts


def test_an_aggregator_that_learns_is_told_of_the_round_and_of_the_groups_that_it_reads() -> None:
    made = state()
    made.seed, made.threads = 5, 2
    reader = made.aggregators["task/stage"] = Reader(Options())
    made.begin_round({"a": 10}, {"a": "stage"}, 3, lambda: {"task/stage": 40})
    assert (reader.facts.number, reader.facts.seed, reader.facts.examples) == (3, 5, 40)
    assert reader.facts.threads == 2
    assert reader.facts.others["common"] is made.states["common"]


def test_only_the_groups_that_are_asked_for_are_opened() -> None:
    expected = state().begin_round({"a": 10}, {"a": "stage"}, groups=["task"])
    assert expected == {"task/stage": 10}
