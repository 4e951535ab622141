"""A shared network: made for the inputs and classes of a task, alike at sites that differ otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from models.networks import build
from strategies.method import Made
from strategies.methods.fml import FML
from strategies.partitioned_model import PartitionedModel, build_partitioned
from strategies.shared_model import check_model, divergence, make_shared
from tests.helpers.plans import plan_of


def made(shape: tuple[int, ...], model: str = "mlp", classes: int = 4) -> Made:
    network = build("mlp", input_shape=shape, classes=classes, head=[], hidden=[3])
    return Made(network, shape, classes, {}, None, model)


@pytest.mark.parametrize(
    ("shape", "first"),
    [((3, 28, 28), "conv1"), ((1, 8, 8), "conv1"), ((3, 7, 9), "fc1"), ((561,), "fc1")],
)
def test_by_itself_it_is_a_small_network_for_such_inputs(
    shape: tuple[int, ...], first: str
) -> None:
    shared = make_shared("auto", made(shape))
    assert next(iter(shared.state_dict())) == f"{first}.weight"
    assert shared.eval()(torch.zeros(2, *shape)).shape == (2, 4)
    assert sum(p.numel() for p in shared.parameters()) < 40_000


def built(model: str, *more: str) -> PartitionedModel:
    plan: Plan = plan_of("har", f"model={model}", "groups=all_common", *more)
    return build_partitioned(plan, FML(0.5, 0.5, "auto"), input_shape=(9,), classes=3)


def test_it_starts_alike_beside_other_networks_and_otherwise_with_another_seed() -> None:
    one, other = built("mlp"), built("linear")
    names = one.partition.exchanged_names("common") + one.partition.exchanged_names("task")
    assert {n: t.tolist() for n, t in one.tensors(names).items()} == {
        n: t.tolist() for n, t in other.tensors(names).items()
    }
    for group in ("common", "task"):
        assert one.partition.fingerprint(group) == other.partition.fingerprint(group)
    moved = built("mlp", "seed=9").tensors(names)
    assert not torch.equal(moved[names[0]], one.tensors(names)[names[0]])


@pytest.mark.parametrize(
    ("model", "of", "reason"),
    [
        ({"name": "mlq"}, "mlp", r"method\.model, the shared network: .*'mlq' does not exist"),
        ({"name": "mlp"}, "mlp", r"method\.model, the shared network: mlp needs .* 'hidden'"),
        ({"name": "small_cnn"}, "mlp", r"method\.model, the shared network: "),
        ("auto", "text_encoder", r"takes other inputs than .*write method\.model=text_encoder"),
        ({"name": "text_encoder"}, "mlp", r"takes other inputs than .*write method\.model=small"),
    ],
)
def test_what_cannot_be_made_is_refused_with_its_key(model: Any, of: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        make_shared(model, made((9,), of))


@pytest.mark.parametrize("model", [None, 3, "small_cnn", {"hidden": [3]}])
def test_what_is_no_network_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match=r"method\.model: expected auto or a network"):
        check_model(model)


def test_the_divergence_is_a_sum_over_classes_and_a_mean_over_examples() -> None:
    """With twice as many classes of half the chance each it is the same; public code halves it."""
    teacher, learner = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 2)
    twice = divergence(learner.repeat(1, 2), teacher.repeat(1, 2))
    assert torch.allclose(divergence(learner, teacher), twice)
    chances = teacher.softmax(1)
    expected = (chances * (2 * chances).log()).sum(1).mean()
    assert torch.allclose(divergence(learner, teacher), expected)


def test_the_teacher_gets_no_gradient() -> None:
    learner, teacher = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    divergence(learner, teacher).backward()  # type: ignore[no-untyped-call]
    assert learner.grad is not None
    assert teacher.grad is None
