"""The special cases that the core must reproduce exactly, shown on whole runs of the app."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from client_app.context import open_site
from client_app.node_config import read_node_settings
from client_app.round import train_round
from client_app.store import DiskStore, MemoryStore
from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.plan import plan_from_json
from tests.helpers.runs import SMALL, same, states
from tests.loopback import LoopbackGrid, simulate


def grid_of(output: Path, partitions: list[int], count: int) -> LoopbackGrid:
    nodes = {50 + i: {"partition-id": i, "num-partitions": count} for i in partitions}
    return LoopbackGrid(nodes, {"output-dir": str(output)})


def updates_of(replies: list[Message], group: str) -> list[tuple[int, dict[str, torch.Tensor]]]:
    """Return examples and tensors of each recorded training reply."""
    import safetensors.torch

    found = []
    for reply in replies:
        report = answers.read_round_report(reply)
        found.append((report.examples, safetensors.torch.load(answers.read_payloads(reply)[group])))
    return found


class Recorder:
    """Keeps every training reply of the last round that was played."""

    def __init__(self) -> None:
        self.replies: list[Message] = []
        self.round = 0

    def __call__(self, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN:
            number = answers.read_round_report(reply).round
            if number != self.round:
                self.round, self.replies = number, []
            self.replies.append(reply)
        return reply


def test_all_common_equals_flowers_own_fedavg(tmp_path: Path) -> None:
    recorder = Recorder()
    results, _ = simulate(tmp_path, "faces", [*SMALL, "method=fedavg"], tamper=recorder)
    ours = states(tmp_path, results["run"])
    replies = []
    for node_id, (examples, tensors) in enumerate(updates_of(recorder.replies, "common")):
        content = RecordDict(
            {
                "arrays": ArrayRecord({n: Array(t.numpy()) for n, t in tensors.items()}),
                "metrics": MetricRecord({"num-examples": examples}),
            }
        )
        asked = Message(RecordDict(), node_id, "train")
        replies.append(Message(content, reply_to=asked))
    theirs, _ = FedAvg().aggregate_train(1, replies)
    assert theirs is not None
    assert len(replies) == 4
    for name, array in theirs.items():
        difference = np.abs(array.numpy() - ours[f"state/common//{name}"].numpy()).max()
        assert difference <= 1e-6, name


def test_all_personal_equals_training_alone_bit_for_bit(tmp_path: Path) -> None:
    overrides = [*SMALL, "method=local", "baselines.alone=true", "train.optimizer.name=adam"]
    results, grid = simulate(tmp_path, "faces", overrides)
    for site in results["final"]["sites"].values():
        assert site["alone"] == {measure: site[measure] for measure in site["alone"]}
    # The tensors too: what site-00 keeps on disk after the last round is what training alone gives.
    plan = plan_from_json(orders.read_order(grid.sent[-1])[0])
    context = open_site(read_node_settings(grid.nodes[100], grid.run_config), plan)
    store = MemoryStore()
    for number in (1, 2):
        train_round(context, number, {}, store)
    on_disk = DiskStore(context.node.state_dir, plan.federation, "site-00").before(3)
    assert store.state is not None
    assert on_disk is not None
    assert same(store.state.flat(), on_disk.flat())
    assert any(name.startswith("optimizer/exp_avg/") for name in on_disk.flat())


def test_one_federation_per_task_equals_separate_federations(tmp_path: Path) -> None:
    groups = ["groups.common=[]", "groups.task=['...']"]
    joint, _ = simulate(tmp_path / "both", "faces", [*SMALL, *groups])
    both = states(tmp_path / "both", joint["run"])
    for task, partitions in {"gender": [0, 2], "pose": [1, 3]}.items():
        output = tmp_path / task
        grid = grid_of(output, partitions, 4)
        single, _ = simulate(output, "faces", [*SMALL, *groups], grid=grid)
        alone = states(output, single["run"])
        assert alone
        assert same({n: t for n, t in both.items() if f"/{task}//" in n}, alone)


def test_fedprox_with_mu_0_equals_fedavg_bit_for_bit(tmp_path: Path) -> None:
    average, _ = simulate(tmp_path / "a", "faces", [*SMALL, "method=fedavg"])
    proximal, _ = simulate(tmp_path / "p", "faces", [*SMALL, "method=fedprox", "method.mu=0"])
    pulled, _ = simulate(tmp_path / "q", "faces", [*SMALL, "method=fedprox", "method.mu=1"])
    expected = states(tmp_path / "a", average["run"])
    assert same(expected, states(tmp_path / "p", proximal["run"]))
    assert not same(expected, states(tmp_path / "q", pulled["run"]))


def test_a_group_of_some_sites_is_normalized_over_those_sites(tmp_path: Path) -> None:
    recorder = Recorder()
    overrides = [*SMALL, "groups=body_common_head_task"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=3, tamper=recorder)
    ours = states(tmp_path, results["run"])
    replies = {answers.read_round_report(r).site: r for r in recorder.replies}
    pairs = updates_of([replies["site-00"], replies["site-02"]], "task")
    total = sum(examples for examples, _ in pairs)
    for name in pairs[0][1]:
        mean = sum(tensors[name].double() * examples for examples, tensors in pairs) / total
        assert torch.allclose(ours[f"state/task/gender//{name}"].double(), mean, atol=1e-7)
    # One site alone in its task: its own tensors, exactly.
    ((_, alone),) = updates_of([replies["site-01"]], "task")
    assert all(torch.equal(ours[f"state/task/pose//{name}"], alone[name]) for name in alone)


@pytest.mark.parametrize(
    ("method", "exchanged", "kept"),
    [
        ("fedavg", {"conv1.weight", "bn1.weight", "head.out.weight"}, set()),
        ("fedper", {"conv1.weight", "bn1.weight"}, {"head.0.weight", "head.out.weight"}),
        ("fedbn", {"conv1.weight", "head.out.weight"}, {"bn1.weight", "bn2.running_mean"}),
        ("lg_fedavg", {"head.0.weight", "head.out.weight"}, {"conv1.weight", "bn1.weight"}),
        ("local", set(), {"conv1.weight", "bn1.weight", "head.out.weight"}),
    ],
)
def test_each_method_exchanges_what_its_paper_says(
    tmp_path: Path, method: str, exchanged: set[str], kept: set[str]
) -> None:
    overrides = [*SMALL, f"method={method}", "strategy.rounds=1"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    sent = {name.split("//")[1] for name in states(tmp_path, results["run"])}
    assert exchanged <= sent
    assert not kept & sent
    stays = DiskStore(tmp_path, results["federation"], "site-00").before(2)
    assert stays is not None
    assert kept <= stays.tensors.keys()
    assert not sent & stays.tensors.keys()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    runs = [
        simulate(tmp_path / str(i), "faces", [*SMALL, f"seed={s}"]) for i, s in enumerate((1, 1, 2))
    ]
    found = [states(tmp_path / str(i), results["run"]) for i, (results, _) in enumerate(runs)]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
