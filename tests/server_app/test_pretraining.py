"""The settings of the server's own pre-training are checked before a picture is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from fedstrata.support.errors import UserError
from models.training import loop
from server_app.pretraining import Pretraining

SGD = OptimizerConfig("sgd", 0.1, 0.9, 0.0)
SETTINGS = Pretraining("central", "drawn_faces", "attributes", 8, 4, 2, 16, 1, 4, SGD)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "faces"}, r"weights\.data 'faces' does not exist; there is drawn_faces"),
        ({"target": "age"}, r"weights\.target 'age' does not exist; there is attributes, identity"),
        ({"epochs": 0}, r"weights\.epochs must be at least 1, got 0"),
        ({"batch_size": 0}, r"weights\.batch_size must be at least 1"),
        ({"examples": 0}, r"weights\.examples must be at least 1"),
        ({"identities": 0}, r"weights\.identities must be at least 1"),
        ({"cameras": -1}, r"weights\.cameras must be at least 1, got -1"),
        ({"size": 0}, r"weights\.size must be at least 1"),
        ({"cameras": 9}, r"weights\.examples=8 leaves some of weights\.cameras=9"),
        ({"optimizer": replace(SGD, name="rmsprop")}, "'rmsprop' does not exist; there is sgd, ad"),
        ({"optimizer": replace(SGD, lr=0.0)}, r"weights\.optimizer\.lr must be greater than 0"),
    ],
)
def test_what_cannot_be_trained_is_reported_by_its_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(SETTINGS, **changes)


def test_an_optimiser_is_the_one_that_was_asked_for() -> None:
    layer = nn.Linear(2, 2)
    sgd = OptimizerConfig("sgd", 0.1, 0.9, 0.01)
    config = FitConfig(1, None, 4, sgd, None, "none")

    def settings(name: str) -> loop.FitSettings:
        return loop.FitSettings(replace(config, optimizer=replace(sgd, name=name)))

    for name, kind in {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }.items():
        made = loop.make_optimizer(dict(layer.named_parameters()), settings(name))
        assert type(made) is kind
        assert made.defaults.get("momentum", 0.9) == 0.9
        assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.1, 0.01)
    with pytest.raises(UserError, match="'rmsprop' does not exist; there are: sgd, adam, adamw"):
        loop.make_optimizer({}, settings("rmsprop"))
