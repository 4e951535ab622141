"""One site cannot end a federation, nor spoil it, with answers that are within all formal bounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import safetensors.torch
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from torch import Tensor

from benchmarks.accuracy.bad_site import ATTACKS, Federation
from fedstrata.protocol import answers, kinds
from fedstrata.protocol.payload import encode
from tests.helpers.runs import DOCS, SMALL, grid_of, states
from tests.helpers.tampering import of_round
from tests.loopback import simulate

BAD = "site-00"
NODE = 100
RUN = [*SMALL, "data.tasks=[gender]", "strategy.rounds=3"]
UNBOUNDED = ["strategy.bounds.norm_factor=null", "strategy.bounds.share=1"]
Change = Callable[[str, Tensor], Tensor]


def layers(change: Change, rounds: tuple[int, ...] = (1, 2, 3)) -> Any:
    """Return a tamper that changes each tensor that the bad site sends in some rounds."""

    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id != NODE or of_round(message) not in rounds:
            return reply
        return changed(reply, change)

    return tamper


def changed(reply: Message, change: Change) -> Message:
    payloads = kinds.payloads_of(reply.content)
    for group, data in payloads.items():
        sent = {n: change(n, t) for n, t in loaded_from(data).items()}
        payloads[group] = encode(sent)
    reply.content[kinds.LAYERS] = ArrayRecord(
        {group: kinds.payload_array(data) for group, data in payloads.items()}
    )
    return reply


def loaded_from(data: bytes) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = safetensors.torch.load(data)
    return loaded


def huge(_: str, tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, 1.6e7)


def negative_variance(name: str, tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, -100.0) if name.endswith("running_var") else tensor


def announced(count: int) -> Any:
    """Return a tamper with which the bad site announces and reports ``count`` training examples."""

    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id != NODE:
            return reply
        report = json.loads(str(reply.content[kinds.REPORT]["json"]))
        said = report["examples"]
        report["examples"] = count if isinstance(said, int) else {**said, "train": count}
        reply.content[kinds.REPORT] = ConfigRecord({"json": json.dumps(report)})
        return reply

    return tamper


def valid(results: dict[str, Any]) -> dict[str, Any]:
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
    return results


def test_weights_far_beyond_the_others_are_refused_and_the_run_is_as_without_that_site(
    tmp_path: Path,
) -> None:
    attacked, _ = simulate(tmp_path / "attacked", "faces", RUN, tamper=layers(huge))
    grid = grid_of(tmp_path / "without")
    del grid.nodes[NODE]
    without, _ = simulate(tmp_path / "without", "faces", RUN, grid=grid)
    valid(attacked)
    for record in attacked["rounds"]:
        assert record["refused"].keys() == {BAD}
        assert "times the median" in record["refused"][BAD]
        assert record["norms"]["common"][BAD] > 1e6
    one, other = (
        states(tmp_path / "attacked", attacked["run"]),
        states(tmp_path / "without", without["run"]),
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_the_bound_the_same_weights_spoil_the_state(tmp_path: Path) -> None:
    results, _ = simulate(
        tmp_path, "faces", [*RUN, *UNBOUNDED, "strategy.rounds=1"], tamper=layers(huge)
    )
    assert BAD in results["rounds"][0]["participants"]
    spoiled = states(tmp_path, results["run"])
    assert max(float(tensor.abs().max()) for tensor in spoiled.values()) > 1e6


def test_a_negative_variance_is_refused_whatever_the_other_sites_send(tmp_path: Path) -> None:
    run = [*RUN, *UNBOUNDED, "strategy.rounds=1"]
    results, _ = simulate(tmp_path, "faces", run, sites=2, tamper=layers(negative_variance))
    assert "negative variance, -100" in results["rounds"][0]["refused"][BAD]


def test_a_site_counts_for_no_more_than_half_whatever_it_announces(tmp_path: Path) -> None:
    run = [*RUN, "strategy.rounds=1"]
    results, _ = simulate(tmp_path, "faces", run, tamper=announced(2**24))
    (record,) = valid(results)["rounds"]
    others = sum(site["train_examples"] for name, site in record["sites"].items() if name != BAD)
    assert record["limited"].keys() == {BAD}
    assert f"counts as {others} of its {2**24} examples in common" in record["limited"][BAD]


def test_a_state_that_most_sites_cannot_use_is_given_up_and_its_cause_left_out(
    tmp_path: Path,
) -> None:
    run = [*RUN, *UNBOUNDED, "strategy.rounds=4"]
    results, _ = simulate(tmp_path, "faces", run, tamper=layers(huge, rounds=(2,)))
    first, *after = valid(results)["rounds"]
    assert BAD in first["participants"]
    assert [record["round"] for record in after] == [2, 3, 4]
    assert all(BAD not in record["participants"] for record in after)
    assert all(len(record["participants"]) == 3 for record in after)
    assert [list(record["suspects"]) for record in after] == [[BAD], [], []]
    assert (
        max(float(tensor.abs().max()) for tensor in states(tmp_path, results["run"]).values()) < 100
    )


def test_what_opens_a_run_is_bounded_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def poisoned(message: Message, reply: Message) -> Message:
        opens = message.metadata.message_type == kinds.OPEN
        return changed(reply, huge) if opens and message.metadata.dst_node_id == NODE else reply

    run = [*RUN, "method=dbe", "strategy.rounds=1"]
    with caplog.at_level("INFO", "flwr"):
        results, _ = simulate(tmp_path, "faces", run, tamper=poisoned)
    assert f"before round 1: {BAD} sent nothing that is taken: its update of means" in caplog.text
    assert states(tmp_path, results["run"])["state/means//extras.mean"].abs().max() < 100


def of_classes(name: str, tensor: Tensor) -> Tensor:
    """Make the class means of a site a hundred thousand times as large."""
    return tensor * 1e5 if name == "extras.sums" else tensor


@pytest.mark.parametrize("method", ["fedproto", "fedtgp", "fedgh", "fd"])
def test_class_means_far_beyond_the_others_spoil_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    overrides = [*RUN, f"method={method}"]
    results, _ = simulate(tmp_path / "cut", "faces", overrides, tamper=layers(of_classes))
    for record in valid(results)["rounds"]:
        if method == "fd":
            assert "times the median" in record["refused"][BAD]
            continue
        assert len(record["participants"]) == 4
        group = "learned_prototypes" if method == "fedtgp" else "prototypes"
        said = record["notes"][f"{group}/gender"]
        assert f"class means of {BAD} are cut to the norm" in said
        assert said in caplog.text
    found = states(tmp_path / "cut", results["run"])
    assert max(float(tensor.abs().max()) for tensor in found.values()) < 1e3
    assert "one site's class means are cut to 3 times" in caplog.text or method == "fd"


def test_without_a_limit_the_same_class_means_spoil_the_prototypes(tmp_path: Path) -> None:
    overrides = [*RUN, "method=fedproto", "strategy.teacher.influence=none"]
    results, _ = simulate(tmp_path, "faces", overrides, tamper=layers(of_classes))
    found = states(tmp_path, results["run"])
    assert max(float(tensor.abs().max()) for tensor in found.values()) > 1e3


def test_a_loss_unlike_the_others_is_no_step_that_is_too_large(tmp_path: Path) -> None:
    def easier(name: str, tensor: Tensor) -> Tensor:
        return tensor / 100 if name == "extras.loss" else tensor

    run = [*RUN, "method=fedprox", "method.mu=0.1", "method.adapt=true"]
    results, _ = simulate(tmp_path, "faces", run, tamper=layers(easier))
    assert all(BAD in record["participants"] for record in results["rounds"])
    assert results["rounds"][0]["norms"].keys() == {"common", "common, statistics"}


@pytest.mark.parametrize("method", ["layers", "dbe"])  # one that is opened, and then again
def test_the_first_round_can_be_given_up_too(tmp_path: Path, method: str) -> None:
    run = [*RUN, *UNBOUNDED, f"method={method}"]
    results, _ = simulate(tmp_path, "faces", run, tamper=layers(huge))
    assert [list(record["suspects"]) for record in results["rounds"]] == [[BAD], [], []]
    without = grid_of(tmp_path / "without")
    del without.nodes[NODE]
    other, _ = simulate(tmp_path / "without", "faces", run, grid=without)
    mine, theirs = states(tmp_path, results["run"]), states(tmp_path / "without", other["run"])
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_one_site_that_says_it_diverged_undoes_nothing(tmp_path: Path) -> None:
    def complains(message: Message, reply: Message) -> Message | None:
        if of_round(message) != 2:
            return reply
        if message.metadata.dst_node_id == NODE:
            return answers.failure(message, BAD, 2, "the loss became nan", diverged=True)
        return None if message.metadata.dst_node_id == NODE + 1 else reply

    run = [*RUN, "strategy.deadline=1"]
    results, _ = simulate(tmp_path, "faces", run, sites=3, tamper=complains)
    second = valid(results)["rounds"][1]
    assert second["refused"].keys() == {BAD}
    assert second["late"].keys() == {"site-01"}
    assert not any(record["suspects"] for record in results["rounds"])


# -- a hundred rounds ------------------------------------------------------------------------------

ROUNDS = 100
ROBUST = ("strategy=robust", f"strategy.rounds={ROUNDS}")


@pytest.fixture(scope="module")
def without_the_bad_site() -> float:
    """Return the accuracy of the robust run in which five honest sites are alone."""
    return Federation(ROBUST, None, seed=1).play(ROUNDS)


@pytest.mark.system  # a minute of training
@pytest.mark.parametrize("attack", list(ATTACKS))
def test_a_hundred_rounds_with_one_bad_site_of_six_end_within_two_points(
    attack: str, without_the_bad_site: float
) -> None:
    accuracy = Federation(ROBUST, ATTACKS[attack], seed=1).play(ROUNDS)
    assert accuracy > without_the_bad_site - 0.02


@pytest.mark.parametrize("attack", ["count liar", "sign flip, 9 times"])
def test_without_the_protection_the_same_attack_costs_more(
    attack: str, without_the_bad_site: float
) -> None:
    rounds = 30
    spoiled = Federation([*UNBOUNDED, f"strategy.rounds={rounds}"], ATTACKS[attack], seed=1)
    assert spoiled.play(rounds) < without_the_bad_site - 0.2
