"""A round at a site: cached features change nothing, and what is frozen stands still."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import client_app.context as context_module
from client_app.context import checkpoint_path
from client_app.round import prepare_round, site_loss, train_round
from client_app.store import DiskStore, LocalState, MemoryStore
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from models import weights
from models.training.data import ArrayInputs, Split
from models.training.loop import Diverged
from models.training.losses import CrossEntropy
from tests.helpers.file_limits import largest_file
from tests.helpers.site_contexts import model_tensors, opened, plan_of, received


def test_cached_features_give_the_same_training_as_the_whole_network(plan: Plan) -> None:
    results = []
    for cache in (True, False):
        config = replace(plan.train, cache_features=cache, feature_dtype="float32")
        context = opened(replace(plan, train=config))
        assert context.partitioned.cut > 0
        store = MemoryStore()
        report = train_round(context, 1, received(context), store)
        after = model_tensors(context)
        results.append((report, after))
    (with_cache, tensors), (without, expected) = results
    assert with_cache.loss == pytest.approx(without.loss, abs=1e-6)
    assert all(
        torch.allclose(tensors[n].float(), t.float(), atol=1e-5) for n, t in expected.items()
    )
    files = list((context.node.cache_dir / "features").glob("*.npy"))
    assert len(files) == 3  # train, validation, test


def test_pictures_from_elsewhere_are_normalized_as_the_sites_own(plan: Plan) -> None:
    context = opened(plan)
    changed = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    assert context.data.preprocessing is not None
    preprocessing = msgspec.structs.replace(context.data.preprocessing, **changed)
    context = replace(context, data=replace(context.data, preprocessing=preprocessing))
    site = prepare_round(context, 1, received(context), MemoryStore()).site_round
    assert torch.equal(site.as_inputs(torch.full((1, 3, 2, 2), 0.75)), torch.ones(1, 3, 2, 2))


def test_a_method_with_a_network_on_the_inputs_caches_no_features(plan: Plan) -> None:
    fml = {"name": "fml", "alpha": 0.5, "beta": 0.5, "model": "auto"}
    context = opened(replace(plan, method=fml))
    assert context.partitioned.cut > 0
    train_round(context, 1, received(context), MemoryStore())
    assert not list((context.node.cache_dir / "features").glob("*.npy"))


def test_the_frozen_prefix_is_hashed_once_and_another_has_another_hash(
    plan: Plan, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    plain = context_module.prefix_digest

    def counted(model: nn.Sequential, cut: int) -> str:
        seen.append(plain(model, cut))
        return seen[-1]

    monkeypatch.setattr(context_module, "prefix_digest", counted)
    context_module.MODELS_KEPT.clear()
    store = MemoryStore()
    for number in (1, 2):
        context = opened(plan)
        train_round(context, number, received(context), store)
    assert seen == [plain(context.partitioned.network, context.partitioned.cut)]
    body, _ = weights.load(checkpoint_path(own_home / "cache", plan.weights))
    other = {name: tensor + 1 for name, tensor in body.items()}
    made = weights.content_hash(other)
    weights.save(checkpoint_path(own_home / "cache", made), other, {})
    context = opened(replace(plan, weights=made))
    train_round(context, 1, received(context), MemoryStore())
    assert len(set(seen)) == len(seen) == 2
    assert len(list((context.node.cache_dir / "features").glob("*.npy"))) == 6


def test_training_in_bfloat16_on_a_cpu_is_near_that_in_float32(plan: Plan) -> None:
    losses = {}
    for precision in ("auto", "float32", "bfloat16"):
        config = replace(plan.train, precision=precision)
        context = opened(replace(plan, train=config), device="cpu")
        losses[precision] = train_round(context, 1, received(context), MemoryStore()).loss
    assert losses["auto"] == losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


@pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX") or "g++"),
    reason="torch.compile needs a C++ compiler, and there is none here",
)
def test_compiled_training_is_the_same_but_for_rounding(plan: Plan) -> None:
    results = []
    for compiled in (False, True):
        context = opened(replace(plan, train=replace(plan.train, compile=compiled)))
        made = prepare_round(context, 1, received(context), MemoryStore()).site_round.compiled
        assert hasattr(made, "_orig_mod") == compiled  # how torch wraps what it compiles
        loss = train_round(context, 1, received(context), MemoryStore()).loss
        results.append((loss, model_tensors(context)))
    (loss, tensors), (expected, others) = results
    assert loss == pytest.approx(expected, abs=1e-4)
    assert all(torch.allclose(tensors[n].float(), t.float(), atol=1e-4) for n, t in others.items())


def test_frozen_layers_and_their_statistics_stand_still(plan: Plan) -> None:
    context = opened(replace(plan, train=replace(plan.train, augment="flip")))
    before = {n: t.clone() for n, t in context.start.items()}
    train_round(context, 1, received(context), MemoryStore())
    after = context.partitioned.model.state_dict()
    own = context.partitioned.partition
    assert all(torch.equal(before[n], after[n]) for n in own.names("pretrained"))
    assert not torch.equal(before["conv3.weight"], after["conv3.weight"])
    assert not torch.equal(before["bn3.running_mean"], after["bn3.running_mean"])
    assert not (context.node.cache_dir / "features").exists()  # augmentation rules the cache out


def test_a_round_goes_on_where_the_feature_cache_has_no_room(
    plan: Plan,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = opened(plan)
    with largest_file(1000):
        without = train_round(context, 1, received(context), MemoryStore())
    tensors = model_tensors(context)
    folder = context.node.cache_dir / "features"
    assert "no room for" in caplog.text
    assert list(folder.iterdir()) == []  # no unfinished file either
    with_cache = train_round(context, 1, received(context), MemoryStore())
    assert len(list(folder.iterdir())) == 3
    assert without.loss == pytest.approx(with_cache.loss, abs=1e-6)
    again = model_tensors(context)
    assert all(
        torch.allclose(tensors[name].float(), again[name].float(), atol=1e-5) for name in tensors
    )


def test_training_that_diverges_is_reported_and_not_saved(plan: Plan) -> None:
    optimizer = replace(plan.train.optimizer, lr=1e20)
    context = opened(replace(plan, train=replace(plan.train, optimizer=optimizer, clip=None)))
    store = MemoryStore()
    with pytest.raises(ArithmeticError, match=r"lower train\.optimizer\.lr"):
        train_round(context, 1, received(context), store)
    assert store.state is None


def test_layers_that_no_loss_can_be_computed_with_are_reported_before_training() -> None:
    context = opened(plan_of())
    broken = {n: torch.full_like(t, 1e38) for n, t in received(context).items()}
    prepared = prepare_round(context, 1, broken, MemoryStore())
    with pytest.raises(Diverged, match="the layers that arrived have the loss nan"):
        prepared.measure()


def test_a_round_is_measured_before_it_is_trained() -> None:
    context = opened(plan_of())
    store = MemoryStore()
    report = train_round(context, 1, received(context), store)
    untrained = prepare_round(context, 1, received(context), MemoryStore()).measure()
    assert report.metrics == untrained
    assert report.steps == report.planned == 3
    assert train_round(context, 1, received(context), MemoryStore(), measure=False).metrics == {}


def test_a_round_starts_from_the_sites_own_layers() -> None:
    context = opened(plan_of())
    store = MemoryStore()
    train_round(context, 1, received(context), store)
    assert store.state is not None
    saved = store.state.tensors["head.out.weight"]
    prepared = prepare_round(context, 2, received(context), store)
    assert torch.equal(prepared.site_round.model.state_dict()["head.out.weight"], saved)
    assert not torch.equal(saved, context.start["head.out.weight"])


def test_layers_of_another_model_are_rejected(tmp_path: Path) -> None:
    context = opened(plan_of())
    store = DiskStore(tmp_path, "run-1", "clinic")
    store.save(1, LocalState({"head.out.weight": torch.ones(3, 3)}))
    with pytest.raises(UserError, match="do not fit the model of this run"):
        prepare_round(context, 2, received(context), store)


def test_class_weights_are_those_of_the_training_split() -> None:
    train = Split(ArrayInputs(np.zeros((4, 1), np.float32)), np.array([0, 0, 0, 1]))
    assert site_loss(opened(plan_of()), train) == CrossEntropy()
    balanced = site_loss(opened(plan_of("train.class_weights=balanced")), train)
    assert isinstance(balanced, CrossEntropy)
    assert balanced.weight is not None
    assert balanced.weight.tolist() == pytest.approx([4 / 6, 4 / 2])


def test_nothing_is_trained_before_the_scale_is_agreed(plan: Plan) -> None:
    context = opened(plan)
    waiting = replace(plan, data={**plan.data, "standardize": "agreed"})
    with pytest.raises(UserError, match="the plan has no agreed scale"):
        prepare_round(replace(context, plan=waiting), 1, received(context), MemoryStore())


def test_a_second_model_that_is_not_finite_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    context = opened(plan_of("method=ditto"))
    train = type(context.method).train

    def overflow(self: Any, site: Any) -> None:
        train(self, site)
        site.memory["own.head.out.bias"].fill_(float("inf"))

    monkeypatch.setattr(type(context.method), "train", overflow)
    with pytest.raises(Diverged, match=r"own\.head\.out\.bias is not finite after training"):
        train_round(context, 1, received(context), context.store)
    assert not context.store.rounds()
