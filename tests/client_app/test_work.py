"""A round at a site: cached features change nothing, devices and checkpoints are checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_auroc, multiclass_recall

from client_app import context, orders, round
from client_app.data import SiteInfo
from client_app.node_config import read_node_settings
from client_app.store import LocalState, MemoryStore
from fedstrata.protocol.payload import encode
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from models import weights
from models.networks import build
from models.training.data import ArrayInputs, SiteData, Split
from models.training.loop import class_weights, schedule_factor
from models.training.metrics import metrics
from server_app.compose import compose
from strategies.config import plan_for
from tests.helpers.runs import SMALL

FROZEN = [
    *SMALL,
    "groups.pretrained=[conv1,bn1,conv2,bn2]",
    "groups.common=[conv3,bn3]",
    "groups.task=[head.0]",
    "groups.personal=[head.out]",
]


@pytest.fixture
def plan(own_home: Path) -> Plan:
    """Return a plan with a frozen prefix, its checkpoint in the cache."""
    torch.manual_seed(3)
    network = build("small_cnn", input_shape=(3, 28, 28), classes=2, head=[8])
    body = {n: t for n, t in network.state_dict().items() if not n.startswith("head")}
    made = weights.content_hash(body)
    (own_home / "cache" / "weights").mkdir(parents=True)
    weights.save(context.checkpoint_path(own_home / "cache", made), body, {})
    return plan_for(compose("faces", FROZEN), federation="run-1", weights=made)


def bench_of(plan: Plan, **node: object) -> context.SiteContext:
    site = read_node_settings({"partition-id": 0, "num-partitions": 2, **node}, {})
    return context.open_site(site, plan)


def received(bench: context.SiteContext) -> dict[str, torch.Tensor]:
    division = bench.partitioned.partition
    return {
        n: bench.start[n] for g in division.exchanged_groups() for n in division.exchanged_names(g)
    }


def test_cached_features_give_the_same_training_as_the_whole_network(plan: Plan) -> None:
    results = []
    for cache in (True, False):
        config = replace(plan.train, cache_features=cache, feature_dtype="float32")
        bench = bench_of(replace(plan, train=config))
        assert bench.partitioned.cut > 0
        store = MemoryStore()
        report = round.play(bench, 1, received(bench), store)
        after = bench.partitioned.tensors(list(bench.partitioned.model.state_dict()))
        results.append((report, after))
    (with_cache, tensors), (without, expected) = results
    assert with_cache.loss == pytest.approx(without.loss, abs=1e-6)
    assert all(
        torch.allclose(tensors[n].float(), t.float(), atol=1e-5) for n, t in expected.items()
    )
    files = list((bench.node.cache_dir / "features").glob("*.npy"))
    assert len(files) == 3  # train, validation, test


def test_the_frozen_prefix_is_hashed_once_and_another_has_another_hash(
    plan: Plan, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    plain = round.prefix_digest

    def counted(model: nn.Sequential, cut: int) -> str:
        seen.append(plain(model, cut))
        return seen[-1]

    monkeypatch.setattr(round, "prefix_digest", counted)
    context._open_model.cache_clear()
    store = MemoryStore()
    for number in (1, 2):
        bench = bench_of(plan)
        round.play(bench, number, received(bench), store)
    assert seen == [plain(bench.partitioned.network, bench.partitioned.cut)]
    body, _ = weights.load(context.checkpoint_path(own_home / "cache", plan.weights))
    other = {name: tensor + 1 for name, tensor in body.items()}
    made = weights.content_hash(other)
    weights.save(context.checkpoint_path(own_home / "cache", made), other, {})
    bench = bench_of(replace(plan, weights=made))
    round.play(bench, 1, received(bench), MemoryStore())
    assert len(set(seen)) == len(seen) == 2
    assert len(list((bench.node.cache_dir / "features").glob("*.npy"))) == 6


def test_training_in_bfloat16_on_a_cpu_is_near_that_in_float32(plan: Plan) -> None:
    losses = {}
    for precision in ("auto", "float32", "bfloat16"):
        config = replace(plan.train, precision=precision)
        bench = bench_of(replace(plan, train=config), device="cpu")
        losses[precision] = round.play(bench, 1, received(bench), MemoryStore()).loss
    assert losses["auto"] == losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_compiled_training_is_the_same_but_for_rounding(plan: Plan) -> None:
    results = []
    for compiled in (False, True):
        bench = bench_of(replace(plan, train=replace(plan.train, compile=compiled)))
        tail = round.set_up(bench, 1, received(bench), MemoryStore()).site_round.tail
        assert hasattr(tail, "_orig_mod") == compiled  # how torch wraps what it compiles
        loss = round.play(bench, 1, received(bench), MemoryStore()).loss
        results.append(
            (loss, bench.partitioned.tensors(list(bench.partitioned.model.state_dict())))
        )
    (loss, tensors), (expected, others) = results
    assert loss == pytest.approx(expected, abs=1e-4)
    assert all(torch.allclose(tensors[n].float(), t.float(), atol=1e-4) for n, t in others.items())


def test_without_a_compiler_compiling_is_refused_before_any_training(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler.* set train\.compile=false"):
        bench_of(replace(plan, train=replace(plan.train, compile=True)))


@pytest.mark.parametrize(
    ("device", "there", "told"),
    [
        ("cuda:3", 2, "the last CUDA device here is cuda:1"),
        ("cuda", 0, "torch finds no CUDA device here"),
        ("mps", 2, "use auto, cpu, cuda or cuda:N"),
        ("meta", 2, "use auto, cpu, cuda or cuda:N"),
        ("graphics", 2, "use auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_told_at_the_start(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, device: str, there: int, told: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(UserError, match=f"device '{device}'.*{told}"):
        bench_of(plan, device=device)
    assert context.choose_device("cpu") == torch.device("cpu")
    if there:
        assert context.choose_device("cuda:1") == torch.device("cuda:1")


def test_augmentation_of_what_is_no_picture_is_refused(plan: Plan) -> None:
    numbers = Split(ArrayInputs(np.zeros((4, 9), np.float32)), np.arange(4) % 2)
    data = SiteData("north", "gender", ("a", "b"), (9,), numbers, numbers, numbers)
    site = read_node_settings({"partition-id": 0, "num-partitions": 2}, {})
    chosen = replace(plan, train=replace(plan.train, augment="flip"))
    with pytest.raises(UserError, match=r"train\.augment=flip is for pictures.*augment=none"):
        context.open_site(site, chosen, data)


def test_frozen_layers_and_their_statistics_stand_still(plan: Plan) -> None:
    bench = bench_of(replace(plan, train=replace(plan.train, augment="flip")))
    before = {n: t.clone() for n, t in bench.start.items()}
    round.play(bench, 1, received(bench), MemoryStore())
    after = bench.partitioned.model.state_dict()
    division = bench.partitioned.partition
    assert all(torch.equal(before[n], after[n]) for n in division.names("pretrained"))
    assert not torch.equal(before["conv3.weight"], after["conv3.weight"])
    assert not torch.equal(before["bn3.running_mean"], after["bn3.running_mean"])
    assert not (bench.node.cache_dir / "features").exists()  # augmentation rules the cache out


def test_a_round_sent_again_gives_the_same_answer(plan: Plan) -> None:
    bench = bench_of(plan)
    payloads = {
        g: encode({n: bench.start[n] for n in bench.partitioned.partition.exchanged_names(g)})
        for g in bench.partitioned.partition.exchanged_groups()
    }
    orders.train(bench, 1, payloads)
    first = orders.train(bench, 2, payloads)
    again = orders.train(bench, 2, payloads)
    assert first[1] == again[1]
    assert first[0].metrics == again[0].metrics


TOPK = {"name": "topk", "fraction": 0.1, "values": "bfloat16", "least": 0}
SPARSE = {"common": TOPK}


def shared(plan: Plan, federation: str) -> context.SiteContext:
    """Return a site that exchanges all it trains, the largest differences of it."""
    groups = {"pretrained": ["conv1", "bn1", "conv2", "bn2"], "common": ["..."]}
    coded = replace(plan, federation=federation, groups=groups, coding=SPARSE)
    return bench_of(coded)


def test_what_an_update_that_was_not_taken_owed_and_carried_is_owed_again(plan: Plan) -> None:
    def sent(federation: str, *orders: tuple[int, int]) -> bytes:
        bench = shared(plan, federation)
        layers = {"common": encode(received(bench))}
        for number, taken in orders:
            _, update = orders.train(bench, number, layers, taken={"common": taken})
        return update["common"]

    without = sent("run-a", (1, 0), (3, 1))
    assert sent("run-b", (1, 0), (2, 1), (3, 1)) == without  # 2 was late: as if it never was
    assert sent("run-c", (1, 0), (2, 1), (3, 2)) != without
    assert sent("run-d", (1, 0), *((n, 1) for n in range(2, 8)), (3, 1)) == without


def test_what_is_owed_of_another_model_is_told(plan: Plan) -> None:
    bench = shared(plan, "run-a")
    layers = {"common": encode(received(bench))}
    orders.train(bench, 1, layers)
    weights.save(bench.store.path(1), {"error_feedback/conv3.weight": torch.ones(3)}, {})
    with pytest.raises(UserError, match="coding has lost so far does not fit the model"):
        orders.train(bench, 2, layers, taken={"common": 1})


def test_fine_tuning_starts_its_optimiser_afresh_and_is_the_same_each_time(plan: Plan) -> None:
    plan = replace(plan, tuning=replace(plan.tuning, epochs=2))
    reports = []
    for federation, momentum in (("run-1", 0.0), ("run-2", 9.0), ("run-2", 9.0)):
        bench = bench_of(replace(plan, federation=federation))
        division = bench.partitioned.partition
        kept = {name: bench.start[name] for name in division.kept_names()}
        state = {"head.out.bias": {"momentum_buffer": torch.full((2,), momentum)}}
        bench.store.save(1, LocalState(kept, state))
        payloads = {
            g: encode({n: bench.start[n] for n in division.exchanged_names(g)})
            for g in division.exchanged_groups()
        }
        reports.append(orders.deploy(bench, 2, payloads))
        assert bench.store.rounds() == [1]
    assert reports[0].before != reports[0].after == reports[1].after == reports[2].after


def test_a_site_says_what_does_not_fit(plan: Plan) -> None:
    bench = bench_of(plan)
    with pytest.raises(UserError, match=r"exchanges \['common', 'task'\]"):
        orders.train(bench, 1, {})
    good = received(bench)
    payloads = {
        g: encode({n: good[n] for n in bench.partitioned.partition.exchanged_names(g)})
        for g in ("common", "task")
    }
    with pytest.raises(UserError, match="group common from the server"):
        orders.train(bench, 1, {**payloads, "common": payloads["task"]})
    with pytest.raises(UserError, match="device 'abacus' does not exist"):
        bench_of(plan, device="abacus")


def test_a_checkpoint_is_kept_only_if_its_hash_is_right(plan: Plan, own_home: Path) -> None:
    path = context.checkpoint_path(own_home / "cache", plan.weights)
    tensors, _ = weights.load(path)
    path.unlink()
    bench = bench_of(plan)
    assert not orders.who(bench).holds_weights
    with pytest.raises(UserError, match="is not on this site's disk"):
        round.play(bench, 1, received(bench), MemoryStore())
    changed = {**tensors, "conv1.weight": tensors["conv1.weight"] + 1}
    for payload in ({"pretrained": encode(changed)}, {"pretrained": b"junk"}, {}):
        with pytest.raises(UserError, match="that arrived"):
            orders.keep_checkpoint(bench, payload)
    orders.keep_checkpoint(bench, {"pretrained": encode(tensors)})
    assert orders.who(bench_of(plan)).holds_weights


def test_training_that_diverges_is_told_and_not_kept(plan: Plan) -> None:
    optimizer = replace(plan.train.optimizer, lr=1e20)
    bench = bench_of(replace(plan, train=replace(plan.train, optimizer=optimizer, clip=None)))
    store = MemoryStore()
    with pytest.raises(ArithmeticError, match=r"lower train\.optimizer\.lr"):
        round.play(bench, 1, received(bench), store)
    assert store.kept is None


def test_metrics_of_a_table_worked_out_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
    labels = torch.tensor([0, 0, 1, 1])
    found = metrics(logits, labels, 2)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert found["auroc"] == pytest.approx(1.0)  # every positive scores above every negative
    only = metrics(logits[:2], labels[:2], 2)
    assert only["auroc"] is None
    assert only["balanced_accuracy"] == 1.0


@pytest.mark.parametrize("seed", [46, 50, 78])
def test_a_perfect_auroc_is_never_above_one(seed: int) -> None:
    # Logits on which the float32 areas come to more than 1 by a rounding.
    generator = torch.Generator().manual_seed(seed)
    examples = int(torch.randint(20, 60, (1,), generator=generator))
    labels = torch.arange(examples) % 6
    noise = torch.rand(examples, 6, generator=generator)
    logits = torch.nn.functional.one_hot(labels, 6).float() * 9 + noise
    assert metrics(logits, labels, 6)["auroc"] == 1.0


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_torchmetrics(seed: int, classes: int) -> None:
    # Ties by rounding the logits; with every other seed the last class does not occur.
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(70, classes, generator=generator).mul(2).round() / 2
    labels = torch.randint(0, max(2, classes - seed % 2), (70,), generator=generator)
    found = metrics(logits, labels, classes)
    occurs = torch.bincount(labels, minlength=classes) > 0
    recall = multiclass_recall(logits.argmax(1), labels, classes, average=None)
    areas = torch.as_tensor(multiclass_auroc(logits.softmax(1), labels, classes, average=None))
    assert found["balanced_accuracy"] == pytest.approx(float(recall[occurs].mean()), abs=1e-6)
    assert found["auroc"] == pytest.approx(float(areas[occurs].mean()), abs=1e-6)


def test_class_weights_and_schedule() -> None:
    weight = class_weights(np.array([0, 0, 0, 1]), 3)
    assert weight.tolist() == pytest.approx([4 / 9, 4 / 3, 0])
    assert schedule_factor("cosine", 1, 10) == 1.0
    assert schedule_factor("cosine", 6, 10) == pytest.approx(0.5)
    assert schedule_factor("constant", 6, 10) == 1.0


def test_a_simulation_of_a_hundred_sites_reads_each_site_s_data_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = []

    def counted(name: str, options: object, seat: SiteInfo, seed: int) -> SiteData:
        read.append(seat.index)
        inputs = ArrayInputs(np.zeros((1, 2), dtype=np.float32))
        one = Split(inputs, np.zeros(1, dtype=np.int64))
        return SiteData(f"site-{seat.index}", "task", ("a", "b"), (2,), one, one, one)

    monkeypatch.setattr(round, "load_data", counted)
    for _ in range(2):  # two rounds
        for index in range(100):
            site = read_node_settings({"partition-id": index, "num-partitions": 100}, {})
            context._open_data('{"name": "counted"}', 1, site)
    assert read == list(range(100))


def test_a_deployed_site_reads_its_data_anew_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stays warm between runs, and the hospital may have mended its labels."""
    read = []

    def counted(name: str, options: object, seat: SiteInfo, seed: int) -> SiteData:
        read.append(seat.site)
        inputs = ArrayInputs(np.zeros((1, 2), dtype=np.float32))
        one = Split(inputs, np.zeros(1, dtype=np.int64))
        return SiteData(str(seat.site), "task", ("a", "b"), (2,), one, one, one)

    monkeypatch.setattr(round, "load_data", counted)
    monkeypatch.setattr(context, "_OWN", {})
    plan = plan_for(
        compose("har", ["groups=all_common", "weights=none"]), federation="a", weights=""
    )
    for federation in ("a", "a", "b", "b"):
        for name in ("north", "south"):
            site = read_node_settings({"site": name}, {})
            context.open_site(site, replace(plan, federation=federation))
    assert read == ["north", "south"] * 2
    assert len(context._OWN) == 2
