"""Each site's model on each other site's test data: right, by metrics alone, and in no deployment."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from flwr.app import Message
from flwr.superlink.grid.grpc_grid import GrpcGrid

from client_app.context import open_site
from client_app.node_config import read_node_settings
from fedstrata.protocol import answers, kinds, orders
from fedstrata.support.errors import UserError
from models import weights
from server_app.app import run
from server_app.compose import RunConfig, compose
from strategies.config import plan_for
from tests.helpers.runs import DOCS, PLAIN, SMALL, without_times
from tests.loopback import simulate

CROSS = [*PLAIN, "groups.personal=[head.out, 'type:BatchNorm2d']", "cross_site=true"]
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
            assert own["accuracy"] == results["final"]["sites"][model]["accuracy"]
    assert results["cross_site"]["missing"] == []
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
        path = output / results["federation"] / "sites" / model / "models" / "last.safetensors"
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
    overrides = [*SMALL, "strategy.rounds=1", "cross_site=true"]
    with caplog.at_level(logging.INFO, "flwr"):
        one_each, _ = simulate(tmp_path / "two", "faces", overrides, sites=2)
        several, _ = simulate(tmp_path / "four", "faces", overrides, sites=4)
    assert one_each["cross_site"] is None
    assert "no task has two sites" in caplog.text
    assert "┃ model of ┃ site-00 ┃" in caplog.text
    changed = {**without_times(several), "config": None, "cross_site": None}
    off, _ = simulate(tmp_path / "off4", "faces", [*SMALL, "strategy.rounds=1"], sites=4)
    assert changed == {**without_times(off), "config": None}


def test_a_pair_that_cannot_be_measured_is_named(tmp_path: Path) -> None:
    def broken(message: Message, reply: Message) -> Message | None:
        if orders.read_order(message).of == "site-03":
            return answers.failure(message, "site-01", 3, "its layers are damaged")
        return reply

    results, _ = simulate(tmp_path, "faces", CROSS, tamper=broken)
    assert results["cross_site"]["missing"] == [
        {"model": "site-03", "data": "site-01", "reason": "its layers are damaged"}
    ]
    models = results["cross_site"]["tasks"]["pose"]["models"]
    assert sorted(models["site-03"]) == ["site-03"]
    assert sorted(models["site-01"]) == ["site-01", "site-03"]


def test_a_deployment_is_refused_before_a_site_is_asked(tmp_path: Path) -> None:
    grid = object.__new__(GrpcGrid)
    with pytest.raises(UserError, match="cross_site=true is for simulations"):
        run(grid, RunConfig("faces", tuple(CROSS), tmp_path, ""))
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_cannot_measure_models_of_others() -> None:
    with pytest.raises(UserError, match="cross_site=true needs a SuperNode for each site"):
        compose("faces", ["cross_site=true", "cohort.sites=2"])
