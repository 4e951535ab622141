"""One round at a site: which tensors train, and what stays for the next round."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from models.groups import partition_tensors
from models.networks import build
from models.training.data import ArrayInputs, Split
from models.training.loop import FitSettings
from strategies.site_round import SiteRound

CONFIG = FitConfig(
    epochs=1,
    steps=None,
    batch_size=4,
    optimizer=OptimizerConfig("sgd", lr=0.1, momentum=0.9, weight_decay=0.0),
    clip=None,
    augment="none",
)
ENTRIES = {"pretrained": ["fc1", "bn1"], "common": ["fc2"], "personal": ["bn2", "head"]}


@pytest.fixture
def site() -> SiteRound:
    torch.manual_seed(0)
    network = build("mlp_bn", input_shape=(6,), classes=2, head=[], hidden=[5, 4])
    rng = np.random.default_rng(0)
    values = rng.standard_normal((8, 6)).astype(np.float32)
    return SiteRound(
        model=network,
        network=network,
        tail=network,
        partition=partition_tensors(network, ENTRIES),
        received={},
        train=Split(ArrayInputs(values), rng.integers(0, 2, 8)),
        classes=2,
        settings=FitSettings(CONFIG),
        loss=functional.cross_entropy,
        generator=np.random.default_rng(1),
        device=torch.device("cpu"),
        memory={},
        optimizer_state={},
        max_steps=None,
    )


def changed_by(site: SiteRound, **options) -> set[str]:
    before = {name: tensor.clone() for name, tensor in site.model.state_dict().items()}
    site.fit(**options)
    after = site.model.state_dict()
    return {name.rpartition(".")[0] for name in after if not torch.equal(after[name], before[name])}


def test_all_trained_groups_train_and_a_frozen_batchnorm_stands_still(site: SiteRound) -> None:
    assert changed_by(site) == {"fc2", "bn2", "head.out"}


def test_a_group_trains_alone_and_the_batchnorm_of_others_stands_still(site: SiteRound) -> None:
    assert changed_by(site, groups=["common"]) == {"fc2"}


def test_only_personal_momentum_is_kept(site: SiteRound) -> None:
    site.fit()
    assert {name.partition(".")[0] for name in site.optimizer_state} == {"bn2", "head"}


def test_exchanged_parameters_are_those_that_leave_the_site(site: SiteRound) -> None:
    assert set(site.exchanged()) == {"fc2.weight", "fc2.bias"}


def test_the_limit_of_steps_is_for_the_whole_round(site: SiteRound) -> None:
    limited = replace(site, max_steps=3)
    assert [limited.fit(epochs=1).steps for _ in range(3)] == [2, 1, 0]


def test_another_network_leaves_the_modes_of_the_model_alone(site: SiteRound) -> None:
    second = nn.Linear(6, 2)
    site.model.eval()
    site.fit(network=second, trained=dict(second.named_parameters()))
    assert not site.model.training
