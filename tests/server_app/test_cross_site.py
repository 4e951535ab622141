"""Each site's layers on each other site's test data: right, by metrics alone, and as sites allow it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import Message
from flwr.superlink.grid.grpc_grid import GrpcGrid

from client_app.context import open_site
from client_app.node_config import read_node_settings
from fedstrata.protocol import answers, cohort_answers, kinds, orders
from fedstrata.protocol.kinds import payloads_of
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.plan import plan_from_json
from fedstrata.support.errors import UserError
from models import weights
from server_app.app import run
from server_app.compose import RunConfig, compose
from server_app.cross_site import crossed_models
from site_guard.answers import AnswerFilter
from site_guard.plan_rules import PlanRules
from strategies.config import plan_for
from tests.helpers.runs import DOCS, PLAIN, SMALL, without_times
from tests.helpers.tiny_app import settings
from tests.loopback import simulate

OWN = [*PLAIN, "groups.personal=[head.out, 'type:BatchNorm2d']"]
CROSS = [*OWN, "cross_site=models", "deployment.epochs=1", "deployment.newcomers=[site-04]"]
UPDATES = [*OWN, "cross_site=updates"]
GAPS: dict[str, dict[str, str]] = {"refused": {}, "late": {}, "absent": {}}
CLOSED = "site-02"  # does not allow the table
# Sites by task: of the one three, of the other two.
PAIRS = {
    "gender": ["site-00", "site-02", "site-04"],
    "pose": ["site-01", "site-03"],
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[Message]]:
    """Return the folder, the results and all answers of a run of five sites."""
    output = tmp_path_factory.mktemp("cross")
    replies: list[Message] = []

    def recorded(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.EVALUATE:
            replies.append(reply)
        return reply

    results, _ = simulate(output, "faces", CROSS, sites=5, tamper=recorded)
    return output, results, replies


def test_each_model_is_measured_at_each_site_of_its_task(
    played: tuple[Path, dict[str, Any], list[Message]],
) -> None:
    _, results, replies = played
    tasks = results["cross_site"]["tasks"]
    assert {task: sorted(entry["models"]) for task, entry in tasks.items()} == PAIRS
    for task, sites in PAIRS.items():
        for model in sites:
            assert sorted(tasks[task]["models"][model]) == sites
            own = tasks[task]["models"][model][model]
            tuned = results["deployment"]
            after = {**tuned["sites"], **tuned["newcomers"]}[model]["after"]
            assert own["loss"] == after["loss"]
    found = results["cross_site"]
    assert (found["missing"], found["left_out"]) == ([], {})
    assert (found["state"], found["round"]) == ("deployed", 2)
    schema = json.loads((DOCS / "results.schema.json").read_text())
    jsonschema.validate(results, schema)
    for reply in replies:
        answers.expect_no_layers(reply)


def test_the_figures_are_those_of_the_other_sites_model_file(
    played: tuple[Path, dict[str, Any], list[Message]],
) -> None:
    output, results, _ = played
    plan = plan_for(compose("faces", CROSS), federation=results["federation"], weights="")
    context = open_site(read_node_settings({"partition-id": 2, "num-partitions": 5}, {}), plan)
    losses = set()
    for model in PAIRS["gender"]:
        path = output / results["federation"] / "sites" / model / "deployed.safetensors"
        tensors, _ = weights.load(path)
        own = context.partitioned.model.state_dict()
        context.partitioned.load({name: tensors[name] for name in own})
        network = context.partitioned.network.eval()
        test = context.data.test
        outputs = network(test.inputs.batch(np.arange(len(test))))
        loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(test.labels)).item()
        found = results["cross_site"]["tasks"]["gender"]["models"][model]["site-02"]
        assert found["loss"] == pytest.approx(loss, abs=2e-5)
        losses.add(found["loss"])
    assert len(losses) == 3  # the personal layers make a difference


def test_it_is_off_by_default_and_a_table_says_it_where_it_is_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without, grid = simulate(tmp_path / "off", "faces", [*SMALL, "strategy.rounds=1"], sites=2)
    assert without["cross_site"] is None
    assert not [m for m in grid.sent if orders.read_order(m).of]
    overrides = [*SMALL, "strategy.rounds=1", "cross_site=models"]
    with caplog.at_level(logging.INFO, "flwr"):
        one_each, _ = simulate(tmp_path / "two", "faces", overrides, sites=2)
        several, _ = simulate(tmp_path / "four", "faces", overrides, sites=4)
    assert one_each["cross_site"] is None
    assert "no task has two sites" in caplog.text
    assert "┃ model of ┃ site-00 ┃" in caplog.text
    changed = {**without_times(several), "config": None, "cross_site": None}
    off, _ = simulate(tmp_path / "off4", "faces", [*SMALL, "strategy.rounds=1"], sites=4)
    assert changed == {**without_times(off), "config": None}


def test_a_pair_that_cannot_be_measured_and_a_site_without_a_model_are_named(
    tmp_path: Path,
) -> None:
    def broken(message: Message, reply: Message) -> Message | None:
        if orders.read_order(message).of == "site-03":
            return answers.failure(message, "site-01", 3, "its layers are damaged")
        if message.metadata.message_type == kinds.DEPLOY and message.metadata.dst_node_id == 102:
            return answers.failure(message, "site-02", 3, "its disk is full")
        return reply

    overrides = [*OWN, "cross_site=models", "deployment.epochs=1"]
    results, _ = simulate(tmp_path, "faces", overrides, tamper=broken)
    found = results["cross_site"]
    assert found["missing"] == [
        {"model": "site-03", "data": "site-01", "reason": "its layers are damaged"}
    ]
    models = found["tasks"]["pose"]["models"]
    assert sorted(models["site-03"]) == ["site-03"]
    assert sorted(models["site-01"]) == ["site-01", "site-03"]
    assert "no deployed model that was measured there: its disk is full" in str(found["left_out"])
    assert found["tasks"]["gender"]["models"]["site-02"] == {}
    assert sorted(found["tasks"]["gender"]["models"]["site-00"]) == ["site-00", "site-02"]


def test_without_fine_tuning_it_is_the_best_model_that_is_kept() -> None:
    last, best = {"sites": {}, **GAPS}, {"round": 1, "sites": {}, **GAPS}
    ends = {"final": last, "best": best, "deployment": None}
    chosen = [crossed_models(ends, kept, 2) for kept in (("last", "best"), ("last",))]
    assert [(each.state, each.round) for each in chosen] == [("best", 1), ("last", 2)]
    without = crossed_models({**ends, "best": None}, ("last", "best"), 2)
    assert without.state == "last"


def test_a_run_that_writes_no_models_has_none_to_measure() -> None:
    with pytest.raises(UserError, match=r"keep_models=none writes none: write keep_models=last"):
        compose("faces", ["cross_site=models", "keep_models=none"])
    compose("faces", ["cross_site=models", "keep_models=none", "deployment.epochs=1"])


def test_a_deployment_is_refused_before_a_site_is_asked(tmp_path: Path) -> None:
    grid = object.__new__(GrpcGrid)
    with pytest.raises(UserError, match="cross_site=models is for simulations"):
        run(grid, RunConfig("faces", tuple(CROSS), tmp_path, ""))
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_cannot_measure_models_of_others() -> None:
    with pytest.raises(UserError, match="cross_site=models needs a SuperNode for each site"):
        compose("faces", ["cross_site=models", "cohort.sites=2"])


# -- of updates ----------------------------------------------------------------------------------


@dataclass
class Guards:
    """The answer filter and the rules of every site, without their processes."""

    folder: Path
    orders: list[Message] = field(default_factory=list)
    left: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.filters: dict[int, AnswerFilter] = {}

    def __call__(self, order: Message, reply: Message) -> Message:
        node = order.metadata.dst_node_id
        site, task = f"site-{node - 100:02d}", ("gender", "pose")[node % 2]
        rules = PlanRules(cross_site=site != CLOSED)
        made = settings(self.folder, site=site, task=task, share=("common", "task"), plan=rules)
        keeper = self.filters.setdefault(node, AnswerFilter(made))
        kind, of = order.metadata.message_type, orders.measured_of(order)
        number = orders.read_order(order).round
        try:
            rules.check_crossing(plan_from_json(orders.read_order(order).plan), kind, of)
            requested = keeper.check_order(order)
        except Refused as error:
            return answers.failure(order, site, number, f"refused by the site: {error}")
        left = keeper.filter_answer(order, reply, requested)
        self.orders.append(order)
        self.left.append(left)
        return left


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Guards]:
    """Return the folder, the results and the messages of a run of five sites with guards."""
    output = tmp_path_factory.mktemp("updates")
    guards = Guards(tmp_path_factory.mktemp("guards"))
    results, _ = simulate(output, "faces", UPDATES, sites=5, tamper=guards)
    return output, results, guards


def test_updates_are_measured_with_the_personal_layers_of_the_site_that_has_the_data(
    updates: tuple[Path, dict[str, Any], Guards],
) -> None:
    output, results, guards = updates
    plan = plan_for(compose("faces", UPDATES), federation=results["federation"], weights="")
    context = open_site(read_node_settings({"partition-id": 0, "num-partitions": 5}, {}), plan)
    path = output / results["federation"] / "sites" / "site-00" / "models" / "last.safetensors"
    own, _ = weights.load(path)
    losses = []
    for reply in guards.left:
        layers = answers.read_payloads(reply)
        site = cohort_answers.reporting_site(reply)
        if reply.metadata.message_type != kinds.CROSS or site not in PAIRS["gender"]:
            continue
        tensors = dict(own)
        for data in layers.values():
            tensors |= safetensors.torch.load(data)
        names = context.partitioned.model.state_dict()
        context.partitioned.load({name: tensors[name] for name in names})
        test = context.data.test
        outputs = context.partitioned.network.eval()(test.inputs.batch(np.arange(len(test))))
        loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(test.labels)).item()
        found = results["cross_site"]["tasks"]["gender"]["models"][site]["site-00"]
        assert found["loss"] == pytest.approx(loss, abs=2e-5)
        losses.append(found["loss"])
    assert len(set(losses)) == 2
    assert results["final"]["sites"]["site-00"]["loss"] not in losses  # it was trained once more


def test_a_site_that_does_not_allow_the_table_sends_no_layers_and_gets_none(
    updates: tuple[Path, dict[str, Any], Guards],
) -> None:
    _, results, guards = updates
    found = results["cross_site"]
    assert found["of"] == "updates"
    assert found["left_out"].keys() == {CLOSED}
    assert "this site's rule is `plan: cross-site`: false" in found["left_out"][CLOSED]
    models = found["tasks"]["gender"]["models"]
    assert {model: sorted(on) for model, on in models.items()} == {
        "site-00": ["site-00", "site-04"],
        CLOSED: [],
        "site-04": ["site-00", "site-04"],
    }
    assert found["missing"] == []
    of = {node: set() for node in range(100, 105)}  # type: dict[int, set[str]]
    for order in guards.orders:
        of[order.metadata.dst_node_id].add(orders.measured_of(order))
        assert order.metadata.dst_node_id != 102 or order.metadata.message_type != kinds.CROSS
    assert of[102] == {""}
    assert of[100] == {"", "site-00", "site-04"}
    assert of[101] == {"", "site-01", "site-03"}
    schema = json.loads((DOCS / "results.schema.json").read_text())
    jsonschema.validate(results, schema)


def test_no_personal_layer_is_in_a_message_of_the_table(
    updates: tuple[Path, dict[str, Any], Guards],
) -> None:
    _, _, guards = updates
    names = set()
    for message in (*guards.orders, *guards.left):
        for data in payloads_of(message.content).values():
            names |= safetensors.torch.load(data).keys()
    assert "conv1.weight" in names
    assert not [name for name in names if name.startswith(("head.out", "bn"))]


def test_the_table_of_updates_changes_nothing_else(tmp_path: Path) -> None:
    runs = []
    for name, overrides in (("with", UPDATES), ("without", OWN)):
        results, _ = simulate(tmp_path / name, "faces", [*overrides, "deployment.epochs=1"])
        sites = tmp_path / name / results["federation"] / "sites"
        files = sorted(path.relative_to(sites) for path in sites.rglob("*.safetensors"))
        same = {"config": None, "cross_site": None, "run": None, "federation": None}
        runs.append(({**without_times(results), **same}, files))
    assert runs[0] == runs[1]


def test_layers_that_are_wrong_cost_their_row(tmp_path: Path) -> None:
    def broken(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.CROSS and message.metadata.dst_node_id == 103:
            report = answers.read_round_report(reply)
            return answers.answer(message, report, {"common": b"no layers"})
        return reply

    results, _ = simulate(tmp_path, "faces", UPDATES, tamper=broken)
    found = results["cross_site"]
    assert found["left_out"].keys() == {"site-03"}
    assert "does not send group task" in found["left_out"]["site-03"]
    models = found["tasks"]["pose"]["models"]
    assert {model: sorted(on) for model, on in models.items()} == {
        "site-01": ["site-01", "site-03"],
        "site-03": [],
    }


def test_a_run_that_exchanges_nothing_has_no_updates(tmp_path: Path) -> None:
    results, grid = simulate(tmp_path, "faces", [*SMALL, "method=local", "cross_site=updates"])
    assert set(results["cross_site"]["left_out"].values()) == {"its model exchanges no layers"}
    assert not [m for m in grid.sent if m.metadata.message_type == kinds.CROSS]


def test_of_a_method_with_knowledge_only_layers_cross(tmp_path: Path) -> None:
    sent: list[set[str]] = []

    def noted(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.CROSS:
            sent.append(set(answers.read_payloads(reply)))
        return reply

    scaffold = [*SMALL, "method=scaffold", "strategy.rounds=1", "cross_site=updates"]
    results, grid = simulate(tmp_path, "faces", scaffold, tamper=noted)
    assert sent == [{"common"}] * 4
    assert results["cross_site"]["left_out"] == {}
    assert results["cross_site"]["missing"] == []
    orders_of_table = [m for m in grid.sent if m.metadata.message_type == kinds.EVALUATE]
    assert all("control" in payloads_of(m.content) for m in orders_of_table)


def test_updates_need_rounds() -> None:
    with pytest.raises(UserError, match="write cross_site=models, in a simulation, or cross"):
        compose(
            "faces", ["cross_site=updates", "strategy.rounds=0", "weights=run", "weights.run=a"]
        )
    with pytest.raises(UserError, match="cross_site must be one of none, models, updates"):
        compose("faces", ["cross_site=true"])
