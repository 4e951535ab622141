"""A site opened for a plan: what is shared, what is read anew, and what is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import client_app.context as context_module
from client_app.context import (
    DataKey,
    ModelKey,
    SiteContext,
    checkpoint_path,
    choose_device,
    open_site,
)
from client_app.data.site_info import SiteInfo
from client_app.node_config import read_node_settings
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from fedstrata.support.frozen import frozen
from models.training.data import ArrayInputs, SiteData, Split
from server_app.compose import compose
from strategies.config import plan_for
from tests.helpers.site_contexts import opened, plan_of


def key_of(context: SiteContext) -> ModelKey:
    return ModelKey.of(context.node, context.plan, context.data)


def test_what_does_not_decide_the_model_shares_it() -> None:
    context = opened(plan_of())
    others = [
        plan_of("train.optimizer.lr=0.5", "train.epochs=3"),
        plan_of("strategy.rounds=7"),
        plan_of("data.train=30"),
        replace(plan_of(), federation="run-2"),
    ]
    for plan in others:
        assert opened(plan).loaded is context.loaded


@pytest.mark.parametrize(
    "override",
    ["seed=7", "model.head=[9]", "method=fedavg", "groups.task=[]", "deployment.epochs=1"],
)
def test_what_decides_the_model_is_in_its_key(override: str) -> None:
    context = opened(plan_of())
    assert key_of(context) != key_of(replace(context, plan=plan_of(override)))
    assert hash(key_of(context)) == hash(key_of(opened(plan_of())))


def test_a_model_has_the_shapes_of_the_sites_data() -> None:
    context = opened(plan_of())
    other = replace(context.data, classes=("a", "b", "c"))
    assert key_of(replace(context, data=other)) != key_of(context)


def test_data_are_chosen_by_their_options_and_the_seed() -> None:
    plan = plan_of()
    assert DataKey.of(plan) == DataKey.of(plan_of("train.epochs=3"))
    assert DataKey.of(plan) != DataKey.of(plan_of("data.train=30"))
    assert DataKey.of(plan) != DataKey.of(plan_of("seed=7"))


def test_a_simulation_of_a_hundred_sites_reads_the_data_of_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = []

    def counted(name: str, options: object, info: SiteInfo, seed: int) -> SiteData:
        read.append(info.index)
        inputs = ArrayInputs(np.zeros((1, 2), dtype=np.float32))
        one = Split(inputs, np.zeros(1, dtype=np.int64))
        return SiteData(f"site-{info.index}", "task", ("a", "b"), (2,), one, one, one)

    monkeypatch.setattr(context_module, "load_data", counted)
    key = DataKey(frozen({"name": "counted"}), 1, {"name": "counted"})
    for _ in range(2):  # two rounds
        for index in range(100):
            site = read_node_settings({"partition-id": index, "num-partitions": 100}, {})
            context_module._simulated_data(key, site)
    assert read == list(range(100))


def test_a_deployed_site_reads_its_data_anew_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stays warm between runs, and the hospital may have corrected its labels."""
    read = []

    def counted(name: str, options: object, info: SiteInfo, seed: int) -> SiteData:
        read.append(info.site)
        inputs = ArrayInputs(np.zeros((1, 2), dtype=np.float32))
        one = Split(inputs, np.zeros(1, dtype=np.int64))
        return SiteData(str(info.site), "task", ("a", "b"), (2,), one, one, one)

    monkeypatch.setattr(context_module, "load_data", counted)
    monkeypatch.setattr(context_module, "_OWN_DATA", {})
    plan = plan_for(
        compose("har", ["groups=all_common", "weights=none"]), federation="a", weights=""
    )
    for federation in ("a", "a", "b", "b"):
        for name in ("north", "south"):
            site = read_node_settings({"site": name}, {})
            open_site(site, replace(plan, federation=federation))
    assert read == ["north", "south"] * 2
    assert len(context_module._OWN_DATA) == 2


def test_a_checkpoint_that_arrives_is_loaded(plan: Plan, own_home: Path) -> None:
    path = checkpoint_path(own_home / "cache", plan.weights)
    aside = path.rename(own_home / "aside")
    context = opened(plan)
    assert not context.has_weights
    aside.rename(path)
    again = context_module.reopened_site(replace(context, micro_batches=4))
    assert again.has_weights
    assert again.micro_batches == 4
    assert not torch.equal(again.start["conv1.weight"], context.start["conv1.weight"])


def test_a_damaged_checkpoint_is_named(plan: Plan, own_home: Path) -> None:
    path = checkpoint_path(own_home / "cache", plan.weights)
    other = checkpoint_path(own_home / "cache", "0" * 64)
    path.rename(other)
    with pytest.raises(UserError, match="is damaged: delete it, it will be sent again") as raised:
        opened(replace(plan, weights="0" * 64))
    assert str(other) not in raised.value.public


def test_no_more_examples_are_evaluated_at_once_than_a_micro_batch_has() -> None:
    context = opened(plan_of("train.batch_size=8", "train.evaluation_batch_size=100"))
    assert context.evaluation_batch == 100
    assert replace(context, micro_batches=2).evaluation_batch == 4
    assert replace(context, micro_batches=8).evaluation_batch == 1


def test_without_a_compiler_compiling_is_refused_before_any_training(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.* set train\.compile=false"):
        opened(replace(plan, train=replace(plan.train, compile=True)))


@pytest.mark.parametrize(
    ("device", "there", "message"),
    [
        ("cuda:3", 2, "the last CUDA device here is cuda:1"),
        ("cuda", 0, "torch finds no CUDA device here"),
        ("mps", 2, "use auto, cpu, cuda or cuda:N"),
        ("meta", 2, "use auto, cpu, cuda or cuda:N"),
        ("graphics", 2, "use auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_does_not_exist_is_rejected_at_the_start(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, device: str, there: int, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(UserError, match=f"device '{device}'.*{message}"):
        opened(plan, device=device)
    assert choose_device("cpu") == torch.device("cpu")
    if there:
        assert choose_device("cuda:1") == torch.device("cuda:1")


def test_augmentation_of_what_is_no_picture_is_refused(plan: Plan) -> None:
    numbers = Split(ArrayInputs(np.zeros((4, 9), np.float32)), np.arange(4) % 2)
    data = SiteData("north", "gender", ("a", "b"), (9,), numbers, numbers, numbers)
    site = read_node_settings({"partition-id": 0, "num-partitions": 2}, {})
    chosen = replace(plan, train=replace(plan.train, augment="flip"))
    with pytest.raises(UserError, match=r"train\.augment=flip is for pictures.*augment=none"):
        open_site(site, chosen, data)


def test_batches_of_one_example_are_refused_where_a_batchnorm_learns() -> None:
    with pytest.raises(
        UserError, match=r"train\.batch_size=1, and BatchNorm \(bn3\).*batch_size=2"
    ):
        opened(plan_of("train.batch_size=1"))
    alone = Split(ArrayInputs(np.zeros((1, 28, 28, 3), np.uint8)), np.zeros(1, np.int64))
    data = SiteData("north", "gender", ("a", "b"), (3, 28, 28), alone, alone, alone)
    site = read_node_settings({"partition-id": 0, "num-partitions": 2}, {})
    with pytest.raises(UserError, match="one training example, and BatchNorm"):
        open_site(site, plan_of(), data)
    frozen_norms = ["groups.pretrained=[conv1,bn1,conv2,bn2,conv3,bn3]", "groups.common=[head.0]"]
    frozen_norms += ["groups.task=[]", "groups.personal=[head.out]"]
    open_site(site, plan_of(*frozen_norms), data)
    fml = {"name": "fml", "alpha": 0.5, "beta": 0.5, "model": "auto"}  # its own has BatchNorm
    with pytest.raises(UserError, match=r"BatchNorm \(extras\.shared\.bn1\)"):
        open_site(site, replace(plan_of(*frozen_norms), method=fml), data)
