"""Tensors are loaded into a drawn model only where they fit; of pre-trained weights a head may differ."""

from __future__ import annotations

import pytest
import torch

from fedstrata.support.errors import UserError
from server_app.compose import compose
from strategies.config import plan_for
from strategies.methods import make_method
from strategies.partitioned_model import PartitionedModel, build_partitioned
from tests.helpers.runs import SMALL


def drawn(channels: int = 3, classes: int = 2) -> PartitionedModel:
    plan = plan_for(compose("faces", SMALL), federation="f", weights="")
    shape = (channels, 28, 28)
    return build_partitioned(plan, make_method(plan.method), input_shape=shape, classes=classes)


def everything(partitioned: PartitionedModel) -> dict[str, torch.Tensor]:
    return partitioned.tensors(list(partitioned.model.state_dict()))


def test_a_tensor_that_would_be_broadcast_is_refused_and_nothing_is_copied() -> None:
    partitioned, before = drawn(), everything(drawn())
    others = {
        "bn1.weight": torch.zeros_like(before["bn1.weight"]),
        "conv1.weight": everything(drawn(channels=1))["conv1.weight"],
    }
    expected = r"conv1\.weight is \(16, 1, 3, 3\), the model's is \(16, 3, 3, 3\)"
    with pytest.raises(UserError, match=expected):
        partitioned.load(others)
    assert all(torch.equal(t, before[n]) for n, t in everything(partitioned).items())


def test_pretrained_weights_of_other_inputs_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"conv1\.weight is .*data\.channels=3.*weights=none"):
        drawn(channels=1).load_pretrained(everything(drawn()))


def test_a_head_for_other_classes_stays_as_it_was_drawn() -> None:
    partitioned, before = drawn(classes=3), everything(drawn(classes=3))
    given = {name: tensor + 1 for name, tensor in everything(drawn()).items()}
    partitioned.load_pretrained(given)
    after = everything(partitioned)
    kept = {name for name in after if torch.equal(after[name], before[name])}
    assert kept == {"head.out.weight", "head.out.bias"}
    assert all(torch.equal(after[name], given[name]) for name in after.keys() - kept)
