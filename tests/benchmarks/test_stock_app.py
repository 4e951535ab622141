"""The app that a user of stock Flower would write has the networks of ours, and runs by itself."""

from __future__ import annotations

import importlib
import json
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from benchmarks.accuracy.wire_setups import faces, har
from benchmarks.flower.stock import STOCK_APP
from server_app.compose import compose
from strategies.config import plan_for
from strategies.methods import make_method
from strategies.partitioned_model import build_partitioned


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STOCK_APP))
    return importlib.import_module("stock.task")


def test_its_perceptron_is_that_of_ours(task: ModuleType) -> None:
    network = task.network(har(Path("/har.npz")).stock)
    plan = plan_for(compose("har", []), federation="any", weights="")
    ours = build_partitioned(plan, make_method(plan.method), input_shape=(561,), classes=6).network
    assert [p.shape for p in network.parameters()] == [p.shape for p in ours.parameters()]


def test_its_default_network_is_that_of_the_main_experiment() -> None:
    written = tomllib.loads((STOCK_APP / "pyproject.toml").read_text())
    assert written["tool"]["flwr"]["app"]["config"]["model"] == faces(Path("/body")).stock


def test_it_begins_with_given_parameters(task: ModuleType, tmp_path: Path) -> None:
    network = task.network("mlp")
    arrays = {
        f"{i:02d}": np.full(p.shape, i, np.float32) for i, p in enumerate(network.parameters())
    }
    np.savez(tmp_path / "start.npz", **arrays)
    task.load_parameters(network, str(tmp_path / "start.npz"))
    assert [float(p.mean()) for p in network.parameters()] == list(map(float, range(8)))


@pytest.mark.parametrize("deployed", [True, False])
def test_a_site_reads_its_own_file_and_a_simulated_one_that_of_its_number(
    task: ModuleType, tmp_path: Path, deployed: bool
) -> None:
    client = importlib.import_module("stock.client_app")
    split = {"x": np.zeros((4, 561), np.float32), "y": np.zeros(4, np.int64)}
    arrays = {f"{of}_{what}": values for of in ("train", "test") for what, values in split.items()}
    np.savez(tmp_path / "1.npz", **arrays)
    place: dict[str, Any] = {"data": str(tmp_path / "1.npz")} if deployed else {"partition-id": 1}
    config = {"model": "mlp", "batch-size": 2, "data": str(tmp_path)}
    model, train, test = client.setup(Context(1, 1, place, RecordDict(), config))
    assert (len(train), len(test.dataset)) == (2, 4)
    before = [p.detach().clone() for p in model.parameters()]
    assert task.train(model, train, 1, 0.1) > 0
    assert any(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert 0 <= task.test(model, test)[1] <= 1


def test_its_strategy_notes_who_answered_and_the_slowest_site(task: ModuleType) -> None:
    strategy = importlib.import_module("stock.server_app").Timed()

    def replies(*seconds: float) -> list[Message]:
        made = []
        for number, each in enumerate(seconds):
            order = Message(RecordDict(), dst_node_id=number + 1, message_type="train")
            metrics = MetricRecord({"seconds": each, "num-examples": 1})
            arrays = ArrayRecord({"a": torch.ones(1)})
            content = RecordDict({"arrays": arrays, "metrics": metrics})
            made.append(Message(content, reply_to=order))
        return made

    strategy.aggregate_train(1, replies(1.0, 3.0))
    without_arrays = [
        Message(RecordDict({"metrics": m.content["metrics"]}), reply_to=m) for m in replies(2.0)
    ]
    strategy.aggregate_evaluate(1, without_arrays)
    (record,) = strategy.rounds
    assert (record["worked"], record["replies"]) == (5.0, 1)
    assert record["ended"] > 0
    json.dumps(strategy.rounds)
