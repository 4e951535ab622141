"""The final model fine-tuned by each site and by newcomers: measured twice, and nothing leaves."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message

from client_app.store import DiskStore
from fedstrata.protocol import answers, kinds
from fedstrata.protocol.plan import Tuning, plan_from_json
from fedstrata.protocol.tensors import TensorSpec
from fedstrata.support.errors import UserError
from fedstrata.support.seeds import derive_seed
from models import weights
from models.groups import FOUR_GROUPS, Partition
from models.model_file import read_model
from models.networks import build
from server_app.compose import compose
from server_app.deployment import tuning_line
from server_app.report import deployment_tables, deployment_verdict
from server_app.sites.roster import Roster
from strategies.config import plan_for
from strategies.methods.layers import Layers
from strategies.site_round import SiteRound
from tests.helpers.runs import DOCS, GROUPS, SMALL, grid_of, same, states, without_times
from tests.helpers.tampering import kinds_to, of_round, with_report
from tests.loopback import LoopbackGrid, failed, simulate

TUNED = [*SMALL, *GROUPS, "deployment.epochs=3"]
NEWCOMER = "site-03"  # of the task pose, as site-01 is
NODE = 103


class Answers:
    """Keeps the answers to the orders of one kind."""

    def __init__(self, kind: str = kinds.DEPLOY) -> None:
        self.kind, self.replies = kind, list[Message]()

    def __call__(self, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == self.kind:
            self.replies.append(reply)
        return reply


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterable[tuple[Any, ...]]:
    """Return results, grid, answers and folder of one run with a newcomer and `alone`."""
    output = tmp_path_factory.mktemp("run")
    answers = Answers()
    overrides = [*TUNED, f"deployment.newcomers=[{NEWCOMER}]", "baselines.alone=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSTRATA_HOME", str(output / "home"))
        torch.set_num_threads(1)
        results, grid = simulate(output, "faces", overrides, tamper=answers)
        yield results, grid, answers.replies, output


def test_results_follow_the_documented_schema(played: Any) -> None:
    results = played[0]
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
    words = (DOCS / "results.md").read_text()
    entry = results["deployment"]["newcomers"][NEWCOMER]
    assert not [name for name in [*results["deployment"], *entry] if f"`{name}" not in words]


def test_before_is_the_final_evaluation_to_the_bit_and_after_is_not(played: Any) -> None:
    results = played[0]
    sites = results["deployment"]["sites"]
    assert list(sites) == ["site-00", "site-01", "site-02"]
    for name, entry in sites.items():
        final = results["final"]["sites"][name]
        assert entry["before"] == {measure: final[measure] for measure in entry["before"]}
        assert entry["after"]["loss"] != entry["before"]["loss"]
        assert entry["alone"] == final["alone"]
        assert entry["over_alone"] == entry["after"]["accuracy"] - entry["alone"]["accuracy"]
        assert entry["steps"] == entry["planned_steps"] == 9  # 3 epochs of 24 examples by 8
        assert entry["tuned"] == 2  # head.out has a weight and a bias


def test_a_newcomer_joins_after_the_rounds_only(played: Any) -> None:
    results, grid, _, output = played
    assert kinds_to(grid, NODE) == {kinds.QUERY, kinds.DEPLOY, kinds.ALONE}
    queries = [m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type == kinds.QUERY]
    assert sorted(queries) == [100, 101, 102, NODE]
    assert kinds_to(grid, 101) == {
        kinds.QUERY,
        kinds.TRAIN,
        kinds.EVALUATE,
        kinds.ALONE,
        kinds.DEPLOY,
    }
    for part in (results["sites"], results["final"]["sites"], *results["rounds"]):
        assert NEWCOMER not in json.dumps(part)
    assert results["final"]["tasks"]["pose"]["sites"] == 1
    assert list(results["deployment"]["newcomers"]) == [NEWCOMER]
    assert results["deployment"]["newcomers"][NEWCOMER]["alone"] is not None
    assert DiskStore(output, results["federation"], NEWCOMER).rounds() == []


def test_only_personal_layers_are_tuned_and_kept_beside_those_of_the_rounds(played: Any) -> None:
    results, _, _, output = played
    server_state = states(output, results["run"])
    for site, task in (("site-00", "gender"), (NEWCOMER, "pose")):
        store = DiskStore(output, results["federation"], site)
        model = read_model(store.deployed)
        tensors = model.tensors
        assert model.card.tuned == ("head.out.weight", "head.out.bias")
        for key in ("common", f"task/{task}"):
            prefix = f"state/{key}//"
            received = {n.removeprefix(prefix): t for n, t in server_state.items() if prefix in n}
            assert received
            assert all(torch.equal(tensors[name], t) for name, t in received.items())
        kept = store.before(99)
        if site != NEWCOMER:
            assert kept is not None
            assert not torch.equal(kept.tensors["head.out.weight"], tensors["head.out.weight"])
            assert store.rounds() == [1, 2]
        network = build("small_cnn", input_shape=(3, 28, 28), classes=2, head=[8])
        report = weights.load_into(network, store.deployed)
        assert len(report.loaded) == report.total == len(tensors)


def test_answers_carry_metrics_and_no_tensor(played: Any) -> None:
    replies = played[2]
    assert len(replies) == 4
    for reply in replies:
        answers.expect_no_layers(reply)
        assert len(str(reply.content["report"]["json"])) < 6000  # with the measures of each class
    assert {answers.read_deploy_report(reply).site for reply in replies} == {
        f"site-0{i}" for i in range(4)
    }


def test_what_the_tables_say_of_a_site_that_is_better_off_alone(played: Any) -> None:
    said = json.loads(json.dumps(played[0]["deployment"]))
    for over, entry in zip((0.25, -0.125, 0.0), said["sites"].values(), strict=True):
        entry["over_alone"] = over
    said["sites"]["site-02"]["tuned"] = 0
    first, second = deployment_verdict(said).split("\n")
    assert "+4.17 points over the sites alone" in first
    assert first.endswith("the federation loses, even fine-tuned, at site-01")
    assert "nothing to tune in deployment.groups at site-02" in first
    assert second.startswith("newcomers, fine-tuned: mean")
    table = deployment_tables(said)
    for word in ("before", "after", "alone", "gain", "Newcomers", "-12.50", NEWCOMER):
        assert word in table


def test_epochs_0_sends_nothing_and_says_null(tmp_path: Path) -> None:
    results, grid = simulate(tmp_path, "faces", [*SMALL, *GROUPS], sites=2)
    assert results["deployment"] is None
    assert kinds.DEPLOY not in {m.metadata.message_type for m in grid.sent}


def test_groups_that_no_task_has_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    overrides = [*SMALL, "method=fedavg", "deployment.epochs=1", "deployment.groups=[personal]"]
    grid = grid_of(tmp_path, sites=2)
    with pytest.raises(UserError, match=r"would tune nothing: write deployment\.groups=\[common\]"):
        simulate(tmp_path, "faces", overrides, grid=grid)
    assert kinds.TRAIN not in {m.metadata.message_type for m in grid.sent}


@pytest.mark.parametrize(
    ("groups", "tuned"),
    [
        (["method=fedavg"], "common"),
        (["groups=body_common_head_task"], "task"),
        ([*GROUPS], "personal"),
        (["method=fedper"], "personal"),
    ],
)
def test_what_is_nearest_to_the_site_is_tuned_by_default_and_said_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, groups: list[str], tuned: str
) -> None:
    overrides = [*SMALL, *groups, "deployment.epochs=1", "strategy.rounds=1"]
    with caplog.at_level(logging.INFO, "flwr"):
        results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    for entry in results["deployment"]["sites"].values():
        assert entry["tuned"] > 0
        assert entry["steps"] == 3
    said = [r.getMessage() for r in caplog.records]
    line = f"fine-tuning after the rounds: {tuned} at task gender, pose"
    assert said.index(line) < next(n for n, text in enumerate(said) if text.startswith("round 1/"))


def test_a_task_at_which_nothing_can_be_tuned_is_named() -> None:
    small = {"w": TensorSpec(shape=(2,), dtype="float32")}
    partitions = {
        task: Partition({"w": group}, small, FOUR_GROUPS)
        for task, group in (("a", "personal"), ("b", "common"))
    }
    line = tuning_line(partitions, ("personal",))
    assert "personal at task a; nothing (deployment.groups has no layers there) at task b" in line
    assert tuning_line(partitions, None).endswith("personal at task a; common at task b")


def test_fedavg_with_fine_tuning_is_a_choice_of_groups(tmp_path: Path) -> None:
    groups = "deployment.groups=[common,task,personal]"
    overrides = [*SMALL, "method=fedavg", "deployment.epochs=1", groups]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    entry = results["deployment"]["sites"]["site-00"]
    assert entry["after"]["loss"] != entry["before"]["loss"]
    tuned, _ = weights.load(DiskStore(tmp_path, results["federation"], "site-00").deployed)
    server_state = states(tmp_path, results["run"])
    assert not torch.equal(tuned["conv1.weight"], server_state["state/common//conv1.weight"])


def test_the_learning_rate_is_a_multiple_of_the_configured_one(tmp_path: Path) -> None:
    results, _ = simulate(tmp_path, "faces", [*TUNED, "deployment.lr_factor=1e-9"], sites=2)
    for entry in results["deployment"]["sites"].values():
        assert entry["after"]["loss"] == pytest.approx(entry["before"]["loss"], abs=1e-5)
        assert entry["steps"] == 9


def test_a_newcomer_changes_nothing_for_the_others(tmp_path: Path) -> None:
    newcomers = f"deployment.newcomers=[{NEWCOMER}]"
    with_it, _ = simulate(tmp_path / "a", "faces", [*TUNED, newcomers])
    grid = LoopbackGrid(
        {100 + i: {"partition-id": i, "num-partitions": 4} for i in range(3)},
        {"output-dir": str(tmp_path / "b")},
    )
    without, _ = simulate(tmp_path / "b", "faces", TUNED, grid=grid)
    assert same(states(tmp_path / "a", with_it["run"]), states(tmp_path / "b", without["run"]))
    left, right = (
        without_times({"final": r["final"], "sites": r["deployment"]["sites"]})
        for r in (with_it, without)
    )
    assert left == right


def test_a_run_resumed_after_its_last_round_does_the_stage_again(tmp_path: Path) -> None:
    overrides = [*TUNED, f"deployment.newcomers=[{NEWCOMER}]"]

    def dies(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.DEPLOY:
            raise RuntimeError("the server dies")
        return reply

    whole, _ = simulate(tmp_path / "whole", "faces", overrides)
    with pytest.raises(RuntimeError):
        simulate(tmp_path / "cut", "faces", overrides, tamper=dies)
    (path,) = (tmp_path / "cut").glob("*/results.json")
    assert json.loads(path.read_text())["deployment"] is None
    for _ in range(2):  # once after the crash, and once more when all is done
        resumed, _ = simulate(tmp_path / "cut", "faces", overrides, resume="latest")
        assert without_times(whole) == without_times(resumed)


def test_a_finished_run_is_fine_tuned_in_another_way_by_resuming_it(tmp_path: Path) -> None:
    first, _ = simulate(tmp_path, "faces", [*SMALL, *GROUPS], sites=2)
    both = "deployment.groups=[task,personal]"
    again, grid = simulate(tmp_path, "faces", [*TUNED, both], sites=2, resume="latest")
    assert kinds.TRAIN not in {m.metadata.message_type for m in grid.sent}
    assert again["final"]["tasks"] == first["final"]["tasks"]
    assert {entry["tuned"] for entry in again["deployment"]["sites"].values()} == {4}
    late = "deployment.newcomers=[site-01]"
    with pytest.raises(UserError, match=r"deployment\.newcomers"):
        simulate(tmp_path, "faces", [*TUNED, late], sites=2, resume="latest")


def test_a_method_tunes_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fine_tune(self: Layers, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        name = f"site-0{len(seen)}"
        expected = np.random.default_rng(
            derive_seed(compose("faces_paper", []).seed, "deploy", name)
        )
        assert site.generator.bit_generator.state == expected.bit_generator.state
        seen.append((list(groups), epochs))
        site.fit(groups=groups, epochs=1)

    monkeypatch.setattr(Layers, "fine_tune", fine_tune)
    results, _ = simulate(tmp_path, "faces", TUNED, sites=2)
    assert seen == [(["personal"], 3)] * 2
    assert {entry["steps"] for entry in results["deployment"]["sites"].values()} == {3}


def test_a_sites_own_limit_of_steps_holds_for_the_fine_tuning(tmp_path: Path) -> None:
    nodes = {i: {"partition-id": i, "num-partitions": 2, "max-steps": 4} for i in range(2)}
    grid = LoopbackGrid(nodes, {"output-dir": str(tmp_path)})
    results, _ = simulate(tmp_path, "faces", TUNED, grid=grid)
    for entry in results["deployment"]["sites"].values():
        assert (entry["steps"], entry["planned_steps"]) == (4, 9)


def test_a_site_that_fails_costs_its_own_entry(tmp_path: Path) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.DEPLOY:
            said = answers.read_deploy_report(reply)
            if said.site == "site-01":
                return answers.answer(message, said, {"personal": b"1234"})
            if said.site == "site-00":
                return answers.answer(message, replace(said, site="site-02"), {})
        return reply

    results, _ = simulate(tmp_path, "faces", TUNED, sites=3, tamper=tamper)
    deployment = results["deployment"]
    assert list(deployment["sites"]) == ["site-02"]
    assert "layers that nobody asked for: personal" in deployment["refused"]["site-01"]
    assert "answers as 'site-02'" in deployment["refused"]["site-00"]


def test_a_site_whose_tuning_diverges_says_so(tmp_path: Path) -> None:
    overrides = [*TUNED, "train.clip=null", "deployment.lr_factor=1e30"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    assert "lower train.optimizer.lr" in results["deployment"]["refused"]["site-00"]
    assert not DiskStore(tmp_path, results["federation"], "site-00").deployed.exists()
    assert deployment_verdict(results["deployment"]) == "no site answered the fine-tuning"


def test_a_model_that_is_not_finite_after_the_last_step_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fine_tune(self: Layers, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        site.trainable(groups)["head.out.bias"].data.fill_(torch.nan)

    monkeypatch.setattr(Layers, "fine_tune", fine_tune)
    results, _ = simulate(tmp_path, "faces", TUNED, sites=2)
    assert "head.out.bias is not finite" in results["deployment"]["refused"]["site-00"]
    assert not DiskStore(tmp_path, results["federation"], "site-00").deployed.exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["deployment.newcomers=[site-3]"], "'site-3' is no site.*'site-03'.*there are site-00"),
        (["deployment.newcomers=[site-01,site-03]"], "task 'pose' of site-01 has no site besides"),
        (
            ["deployment.newcomers=[site-00,site-01,site-02,site-03]", "strategy.join_timeout=1"],
            r"4 of at least 5 sites.*strategy\.min_sites \(besides 4 newcomers\)",
        ),
        (["deployment.groups=[personel]"], "'personel' does not exist; choose from common"),
        (["deployment.groups=[pretrained]"], "'pretrained' is frozen"),
    ],
)
def test_what_cannot_be_is_reported_before_any_training(
    tmp_path: Path, overrides: list[str], said: str
) -> None:
    grid = LoopbackGrid(
        {100 + i: {"partition-id": i, "num-partitions": 4} for i in range(4)},
        {"output-dir": str(tmp_path)},
    )
    with pytest.raises(UserError, match=said):
        simulate(tmp_path, "faces", [*TUNED, *overrides], grid=grid)
    assert {m.metadata.message_type for m in grid.sent} == {kinds.QUERY}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["deployment.epochs=-1"], r"deployment\.epochs must be 0 .* or greater, got -1"),
        (["deployment.epochs=1", "deployment.groups=[]"], r"deployment\.groups is empty"),
        (["deployment.epochs=1", "deployment.lr_factor=0"], r"deployment\.lr_factor must be"),
        (
            ["deployment.newcomers=[north]"],
            r"north, but they only fine-tune, and deployment\.epochs=0",
        ),
        (["deployment.epochs=1", "deployment.newcomers=[a,b,a]"], "names a site twice: a, b, a"),
        (["deployment.epochs=1", "deployment.newcomers=2"], r"deployment\.newcomers"),
    ],
)
def test_a_mistake_in_the_configuration_is_reported_by_its_key(
    overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        compose("faces_paper", overrides)


def test_a_plan_tells_the_fine_tuning_and_not_the_names_of_newcomers() -> None:
    overrides = ["deployment.epochs=2", "deployment.newcomers=[north]"]
    plan = plan_for(compose("faces_paper", overrides), federation="run-1", weights="")
    again = plan_from_json(plan.to_json())
    assert again.tuning == Tuning(2, None, 1.0)
    assert "north" not in plan.to_json()


def test_newcomers_of_a_task_of_their_own_are_welcome_where_tasks_share_nothing(
    tmp_path: Path,
) -> None:
    groups = ["groups=body_common_head_task", "groups.task=[]", "groups.personal=[head]"]
    overrides = [*SMALL, *groups, "deployment.epochs=1", "deployment.newcomers=[site-01]"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    assert results["deployment"]["newcomers"]["site-01"]["task"] == "pose"
    assert set(results["final"]["tasks"]) == {"gender"}


def pretrained(folder: Path) -> list[str]:
    """Return the overrides of a run that starts from a file."""
    torch.manual_seed(5)
    network = build("small_cnn", input_shape=(3, 28, 28), classes=2, head=[8])
    source = folder / "start.safetensors"
    body = {n: t for n, t in network.state_dict().items() if not n.startswith("head")}
    weights.save(source, body, {})
    return [*TUNED, "weights=file", f"weights.path={source}", "groups.pretrained=[conv1,bn1]"]


def lacking(folder: Path) -> LoopbackGrid:
    """Return four nodes whose caches are their own, and empty."""
    nodes = {
        100 + i: {"partition-id": i, "num-partitions": 4, "cache-dir": str(folder / f"cache-{i}")}
        for i in range(4)
    }
    return LoopbackGrid(nodes, {"output-dir": str(folder / "out")})


def test_a_newcomer_gets_the_pretrained_checkpoint_if_it_lacks_it(tmp_path: Path) -> None:
    overrides = [*pretrained(tmp_path), f"deployment.newcomers=[{NEWCOMER}]"]
    grid = lacking(tmp_path)
    results, _ = simulate(tmp_path / "out", "faces", overrides, grid=grid)
    assert kinds_to(grid, NODE) == {kinds.QUERY, kinds.WEIGHTS, kinds.DEPLOY}
    assert list(results["deployment"]["newcomers"]) == [NEWCOMER]
    assert list((tmp_path / "cache-3" / "weights").glob("*.safetensors"))


def test_a_site_that_did_not_take_the_checkpoint_gets_it_before_the_next_round(
    tmp_path: Path,
) -> None:
    grid = lacking(tmp_path)
    lost: list[Message] = []

    def tamper(message: Message, reply: Message) -> Message:
        sent = message.metadata.message_type == kinds.WEIGHTS
        if not sent or message.metadata.dst_node_id != NODE or lost:
            return reply
        lost.append(reply)
        shutil.rmtree(tmp_path / "cache-3" / "weights")
        return failed(message)

    grid.tamper = tamper
    results, _ = simulate(tmp_path / "out", "faces", pretrained(tmp_path), grid=grid)
    assert lost
    assert results["participation"][NEWCOMER] == ["refused", "took part"]


def test_a_site_that_lost_the_checkpoint_gets_it_again(tmp_path: Path) -> None:
    grid = lacking(tmp_path)

    def tamper(message: Message, reply: Message) -> Message:
        if of_round(message) == 1 and message.metadata.dst_node_id == NODE:
            shutil.rmtree(tmp_path / "cache-3" / "weights")
        return reply

    grid.tamper = tamper
    overrides = [*pretrained(tmp_path), "strategy.rounds=3"]
    results, _ = simulate(tmp_path / "out", "faces", overrides, grid=grid)
    assert results["participation"][NEWCOMER] == ["took part", "refused", "took part"]
    assert "checkpoint" in results["rounds"][1]["refused"][NEWCOMER]


def test_a_site_that_joins_in_mid_round_is_sent_the_checkpoint_after_it(tmp_path: Path) -> None:
    """Sending it takes as long as the site's line does, and nobody else's answer would be fetched."""
    grid = lacking(tmp_path)
    late = grid.nodes.pop(NODE)
    sent: list[bool] = []

    def tamper(message: Message, reply: Message) -> Message | None:
        node = message.metadata.dst_node_id
        if of_round(message) == 1:
            grid.nodes[NODE] = late
            return None if node == 102 else reply  # the round is open until the deadline
        if message.metadata.message_type == kinds.WEIGHTS and node == NODE:
            sent.append(bool(list(tmp_path.glob("out/*/checkpoints/round-000001"))))
        return reply

    grid.tamper = tamper
    overrides = [*pretrained(tmp_path), "strategy.deadline=5"]
    results, _ = simulate(tmp_path / "out", "faces", overrides, grid=grid)
    assert sent == [True]
    assert results["participation"][NEWCOMER] == ["not asked", "took part"]


def silent(kinds: Sequence[str], times: float) -> Callable[[Message, Message], Message | None]:
    """Return a tamper: the node leaves orders of these kinds unanswered, but for its introduction."""
    asked: list[Message] = []

    def tamper(message: Message, reply: Message) -> Message | None:
        if message.metadata.dst_node_id != NODE or message.metadata.message_type not in kinds:
            return reply
        asked.append(message)
        return None if 1 < len(asked) <= times + 1 else reply

    return tamper


def questions(grid: LoopbackGrid) -> int:
    """Return how often the node was asked who it is."""
    asked = [m.metadata.message_type for m in grid.sent if m.metadata.dst_node_id == NODE]
    return asked.count(kinds.QUERY)


@pytest.mark.parametrize("newcomer", [False, True])
def test_a_site_that_says_nothing_does_not_keep_every_round_waiting(
    tmp_path: Path, newcomer: bool
) -> None:
    grid = lacking(tmp_path)
    grid.tamper = silent([kinds.QUERY, kinds.TRAIN, kinds.EVALUATE, kinds.DEPLOY], math.inf)
    overrides = [
        *pretrained(tmp_path),
        f"deployment.newcomers=[{NEWCOMER if newcomer else ''}]",
        "strategy.rounds=3",
        "strategy.deadline=1",
        "strategy.final_timeout=1",
    ]
    results, _ = simulate(tmp_path / "out", "faces", overrides, grid=grid)
    assert [len(record["participants"]) for record in results["rounds"]] == [3, 3, 3]
    # when it joined, before the first round, where it takes part in that, and after the last
    assert questions(grid) == (2 if newcomer else 3)


def test_a_site_that_is_heard_of_again_is_asked_again(tmp_path: Path) -> None:
    grid = lacking(tmp_path)
    grid.tamper = silent([kinds.QUERY], 1)
    overrides = [*pretrained(tmp_path), "strategy.deadline=2"]
    results, _ = simulate(tmp_path / "out", "faces", overrides, grid=grid)
    assert results["participation"][NEWCOMER] == ["refused", "took part"]


class Closed:
    """Lets the node be outside its hours when it gets orders of a kind, so many times."""

    def __init__(self, times: float, *kinds: str) -> None:
        self.times = dict.fromkeys(kinds, times)

    def __call__(self, message: Message, reply: Message) -> Message:
        kind = message.metadata.message_type
        if message.metadata.dst_node_id != NODE or not self.times.get(kind):
            return reply
        self.times[kind] -= 1
        return answers.failure(message, NEWCOMER, 3, "at night", later=True)


BOTH = [*TUNED, "baselines.alone=true"]


def test_sites_that_are_closed_after_the_rounds_are_asked_again(tmp_path: Path) -> None:
    results, _ = simulate(tmp_path, "faces", BOTH, tamper=Closed(3, kinds.ALONE, kinds.DEPLOY))
    assert results["final"]["sites"][NEWCOMER]["alone"] is not None
    assert NEWCOMER in results["deployment"]["sites"]
    assert not results["deployment"]["refused"]


def test_who_stays_closed_is_named_and_asked_again_by_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tamper = Closed(math.inf, kinds.ALONE, kinds.DEPLOY)
    overrides = [*BOTH, "strategy.give_up=0.3"]
    results, _ = simulate(tmp_path, "faces", overrides, tamper=tamper)
    assert results["final"]["sites"][NEWCOMER]["alone"] is None
    assert results["deployment"]["refused"] == {NEWCOMER: "at night"}
    for what in ("alone", "fine-tuning"):
        said = f"{what}: gave up on {NEWCOMER} after 0.3 s (strategy.give_up)"
        assert any(said in r.message and "resume" in r.message for r in caplog.records)
    results, _ = simulate(tmp_path, "faces", overrides, resume="latest")
    assert results["final"]["sites"][NEWCOMER]["alone"] is not None
    assert NEWCOMER in results["deployment"]["sites"]


def test_who_was_asked_with_another_plan_is_asked_again(tmp_path: Path) -> None:
    """What it would say of a checkpoint would be of none, or of another."""
    grid = lacking(tmp_path)
    grid.tamper = lambda message, reply: None
    roster = Roster(grid, "{}")
    roster.greet()
    roster.greet()
    assert len(grid.sent) == len(grid.nodes)
    roster.change_plan('{"weights": "other"}')
    roster.greet()
    assert len(grid.sent) == 2 * len(grid.nodes)
    assert "other" in str(grid.sent[-1].content["plan"]["json"])


def test_a_site_that_does_not_fit_gets_no_checkpoint(tmp_path: Path) -> None:
    grid = lacking(tmp_path)
    late = grid.nodes.pop(NODE)

    def tamper(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN:
            grid.nodes[NODE] = late
        other = message.metadata.dst_node_id == NODE
        return with_report(classes=["old", "young"])(message, reply) if other else reply

    grid.tamper = tamper
    simulate(tmp_path / "out", "faces", pretrained(tmp_path), grid=grid)
    assert kinds_to(grid, NODE) == {kinds.QUERY}


def test_a_newcomer_whose_layers_do_not_fit_is_reported_by_name(tmp_path: Path) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        report = json.loads(str(reply.content["report"]["json"]))
        if report["site"] == "site-01" and "fingerprints" in report:
            report["fingerprints"]["common"] = "0" * 64
            report["schemas"]["common"] |= {"conv1.weight": "float32[1, 2]"}
            reply.content["report"] = ConfigRecord({"json": json.dumps(report)})
        return reply

    overrides = [*TUNED, "deployment.newcomers=[site-01]"]
    with pytest.raises(UserError, match=r"site-01: group 'common' does not fit that of site-03"):
        simulate(tmp_path, "faces", overrides, tamper=tamper)
