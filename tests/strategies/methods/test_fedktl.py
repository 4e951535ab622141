"""FedKTL: outputs are angles, and pictures from the server join a site's loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from fedstrata.protocol.task_kinds import KINDS, TaskKind
from fedstrata.support.errors import UserError
from models.generators.style import StyleNetwork
from models.training.loop import FitSettings
from strategies.class_statistics import COUNTS, SUMS
from strategies.methods import make_method
from strategies.methods.fedktl import GROUP, FedKTL
from strategies.partitioned_model import build_partitioned
from strategies.site_round import SiteRound
from tests.helpers.method_rounds import (
    CLASSES,
    LR,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    descended,
    features,
    linear,
    mean_of,
    parameters,
    plan_with,
    round_over,
    tensors_of,
    weighted,
)
from tests.helpers.runs import SMALL, same, states
from tests.loopback import simulate

METHOD = FedKTL(5.0, True, 4.0, 0.3, "packaged", 2, False, 0.01, 3, 1.0)
OFF = replace(METHOD, weight=0.0, etf=False)
LOCAL = make_method({"name": "local"})
EXAMPLES = [6, 9]
SHAPE = (1, 2, 2)  # four inputs, as tests.helpers.method_rounds has them
RUN = [*SMALL, "method=fedktl"]
SENT = "extras.pictures"
PICTURES = torch.tensor([[[[0.1, 0.9], [0.4, 0.2]]], [[[0.0] * 2] * 2], [[[0.7, 0.3], [0.8, 0.5]]]])
TARGETS = torch.tensor([[0.5, -0.2], [0.0, 0.0], [-0.3, 0.8]])
RECEIVED = {
    "extras.pictures": PICTURES,
    "extras.targets": TARGETS,
    "extras.there": torch.tensor([1.0, 0.0, 1.0]),
}


def site_with(
    method: object,
    seed: int = 0,
    *,
    examples: int = 6,
    start: dict[str, Tensor] | None = None,
    model: str = "mlp",
    momentum: float = 0.0,
) -> SiteRound:
    built = build_partitioned(plan_with(model), method, input_shape=SHAPE, classes=CLASSES)  # type: ignore[arg-type]
    built.load(start or {})
    optimizer = OptimizerConfig("sgd", LR, momentum, 0.0)
    config = FitConfig(
        epochs=None, steps=2, batch_size=16, clip=None, optimizer=optimizer, augment="none"
    )
    return round_over(built, FitSettings(config), seed, 1, examples, None)


def angles(x: Numbers, p: Parameters) -> tuple[Numbers, Numbers]:
    """Return normalized projections, and their cosines to the corners."""
    rows = linear(features(x, p), p, "head.out")
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, rows @ (np.sqrt(1.5) * (np.eye(3) - 1 / 3))


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    """Of class 1 there is no picture yet."""
    sites = [site_with(METHOD, i, examples=n, start=RECEIVED) for i, n in enumerate(EXAMPLES)]
    for site in sites:
        site.picture_scale = (0.5,), (0.25,)
    drawn = (PICTURES.flatten(1).double().numpy()[[0, 2]] - 0.5) / 0.25
    wanted = TARGETS.double().numpy()[[0, 2]]
    of_each = []
    for site in sites:
        names = {"fc1.weight", "fc1.bias", "head.out.weight", "head.out.bias"}
        names |= {"extras.project.weight", "extras.project.bias"}
        start = {n: v for n, v in parameters(tensors_of(site)).items() if n in names}
        METHOD.train(site)
        x, y = data_of(site)

        def loss(p: Parameters, x: Numbers = x, y=y) -> float:
            _, found = angles(x, p)
            rows = np.arange(len(y))
            found[rows, y] = np.cos(np.arccos(found[rows, y]) + 0.3)
            off = linear(features(drawn, p), p, "extras.project") - wanted
            return cross_entropy(4.0 * found, y) + 5.0 * float((off**2).mean())

        p = descended(loss, start)
        found = tensors_of(site)
        assert_close(found, p)
        assert same({n: found[n] for n in RECEIVED}, RECEIVED)
        projections, cosines = angles(x, p)
        sums = np.array([projections[y == label].sum(0) for label in range(CLASSES)]) / len(y)
        counts = np.bincount(y, minlength=CLASSES) / len(y)
        assert_close(found, {SUMS: sums, COUNTS: counts})
        outputs = METHOD.predictor(site)(site.train.inputs.batch(np.arange(len(y))))
        assert_close({"outputs": outputs}, {"outputs": 4.0 * cosines}, 1e-5)
        of_each.append({SUMS: sums, COUNTS: counts})
    assert_close(mean_of(METHOD, sites, "projections"), weighted(of_each, EXAMPLES))


def test_without_a_picture_only_the_angles_train() -> None:
    one, other = site_with(METHOD), site_with(replace(METHOD, weight=0.0))
    METHOD.train(one)
    replace(METHOD, weight=0.0).train(other)
    found = tensors_of(one)
    assert same({name: found[name] for name in tensors_of(other)}, tensors_of(other))


def test_without_weight_and_angles_it_is_training_alone_bit_for_bit() -> None:
    one, other = site_with(OFF, momentum=0.9), site_with(LOCAL, momentum=0.9)
    OFF.train(one)
    LOCAL.train(other)
    assert same(tensors_of(one), tensors_of(other))
    assert OFF.predictor(one) is one.tail
    assert OFF.deployed(one) == {}
    assert METHOD.deployed(one) is None


def test_networks_that_differ_exchange_alike() -> None:
    sites = [site_with(METHOD, start=RECEIVED), site_with(METHOD, 1, model="mlp_bn")]
    for site in sites:
        METHOD.train(site)
    one, other = (site.partition for site in sites)
    assert one.specs.keys() != other.specs.keys()
    assert all(one.fingerprint(g) == other.fingerprint(g) for g in ("projections", GROUP))
    assert float(mean_of(METHOD, sites, "projections")[COUNTS].sum()) == pytest.approx(1)


def test_only_mean_projections_leave_a_site() -> None:
    partition = site_with(METHOD).partition
    assert METHOD.sent_groups(partition) == ("projections",)
    assert set(partition.names(GROUP)) == RECEIVED.keys()
    assert partition.specs[SUMS].shape == (CLASSES, CLASSES)
    kept = set(partition.kept_names())
    assert {"extras.project.weight", "head.out.weight"} <= kept
    assert not kept & RECEIVED.keys()


def test_running_statistics_are_of_the_sites_own_examples() -> None:
    # A rate at which no weight moves: all that moves are the statistics.
    def statistics(received: dict[str, Tensor]) -> dict[str, Tensor]:
        site = site_with(METHOD, model="mlp_bn", start=received)
        site.settings = FitSettings(
            replace(site.settings.config, optimizer=OptimizerConfig("sgd", 1e-30, 0.0, 0.0))
        )
        METHOD.train(site)
        return {n: t for n, t in tensors_of(site).items() if "running" in n}

    assert len(statistics({})) == 2
    assert same(statistics({}), statistics(RECEIVED))


def test_of_many_classes_a_step_has_some_of_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.methods.fedktl.BATCH", 1)
    site = site_with(METHOD, start=RECEIVED)
    METHOD.train(site)
    assert all(tensor.isfinite().all() for tensor in tensors_of(site).values())


@pytest.mark.parametrize("sites", [1, 4])
def test_each_task_gets_pictures_also_of_a_single_site(tmp_path: Path, sites: int) -> None:
    """With one site it is the paper's case of a cloud and an edge."""
    results, _ = simulate(tmp_path, "faces", RUN, sites=sites)
    assert all(set(record["bytes_up"]) == {"projections"} for record in results["rounds"])
    found = states(tmp_path, results["run"])
    pictures = {n: t for n, t in found.items() if n.endswith("extras.pictures")}
    assert len(pictures) == min(sites, 2)
    for tensor in pictures.values():
        assert tensor.shape == (2, 3, 28, 28)
        assert float(tensor.min()) >= 0
        assert float(tensor.max()) <= 1
        assert float(tensor.std()) > 0.05


def test_the_means_of_each_site_are_refused_where_nodes_send_sums(tmp_path: Path) -> None:
    each = [*RUN, "method.each_site=true"]
    with pytest.raises(
        UserError, match=r"makes group 'pictures' of each site's .* method\.each_site=false"
    ):
        simulate(tmp_path, "faces", [*each, "cohort.sites=2"], sites=2)
    results, _ = simulate(tmp_path, "faces", [*each, "strategy.rounds=1"], sites=2)
    assert results["rounds"][0]["kept"] == {}


def test_examples_that_are_no_pictures_are_refused() -> None:
    with pytest.raises(UserError, match=r"method=fedktl sends pictures, and .* the shape \[4\]"):
        build_partitioned(plan_with("mlp"), METHOD, input_shape=(4,), classes=CLASSES)


def test_another_width_than_the_generators_is_answered_with_its_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method\.latent=16: .* have 32 numbers: write .*=32"):
        simulate(tmp_path, "faces", [*RUN, "method.latent=16"], sites=2)
    with pytest.raises(UserError, match=r"method\.generator=/no\.safetensors: write packaged, or"):
        simulate(tmp_path, "faces", [*RUN, "method.generator=/no.safetensors"], sites=2)


def test_a_run_takes_the_style_generator_of_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = StyleNetwork((6, 5), latent=4, noise=3, layers=2)  # pictures of 8x8
    path = tmp_path / "style.safetensors"
    # As files of StyleGAN2 have it: a tensor that is not needed here.
    save_file({**network.state_dict(), "mapping.w_avg": torch.zeros(4)}, path)
    chosen = [*RUN, f"method.generator={path}", "method.latent=4", "method.steps=2"]
    results, _ = simulate(tmp_path / "out", "faces", chosen, sites=2)
    assert all(len(record["participants"]) == 2 for record in results["rounds"])
    assert [record["kept"] for record in results["rounds"]] == [{}, {}]
    kept = states(tmp_path / "out", results["run"])
    pictures = next(tensor for name, tensor in kept.items() if name.endswith(SENT))
    assert pictures.shape[1:] == (3, 28, 28)
    assert 0 <= float(pictures.min()) < float(pictures.max()) <= 1
    other, _ = simulate(tmp_path / "packaged", "faces", [*RUN, "method.steps=2"], sites=2)
    drawn = states(tmp_path / "packaged", other["run"])
    assert not torch.equal(pictures, drawn[next(n for n in drawn if n.endswith(SENT))])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classes"])
def test_tasks_without_classes_are_refused(kind: str) -> None:
    METHOD.check_task(TaskKind())
    with pytest.raises(UserError, match=f"a task of kind {kind} has none: .*method=lg_fedavg"):
        METHOD.check_task(TaskKind(kind))


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [("weight", -1.0, "0 or greater"), ("scale", 0.0, "above 0"), ("steps", 0, "1 or greater")],
)
def test_its_options_are_checked(option: str, value: float, rule: str) -> None:
    with pytest.raises(UserError, match=rf"method\.{option} must be {rule}, got {value:g}"):
        make_method({**vars(METHOD), "name": "fedktl", option: value})
