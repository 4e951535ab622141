"""One round at a site: which tensors train, and what stays for the next round."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedstrata.protocol.plan import FitConfig, OptimizerConfig
from fedstrata.support.errors import UserError
from models.groups import partition_tensors
from models.networks import build
from models.training.data import ArrayInputs, Split
from models.training.loop import FitSettings, parameters_of
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


def test_body_and_last_layer_are_the_tail(site: SiteRound) -> None:
    site.model.eval()
    inputs = site.train.inputs.batch(np.arange(8))
    assert torch.equal(site.out(site.body(inputs)), site.tail(inputs))
    assert (
        site.out.state_dict(keep_vars=True)["head.out.weight"]
        is site.trainable()["head.out.weight"]
    )


def test_a_module_that_is_frozen_away_cannot_be_cut_at(site: SiteRound) -> None:
    with pytest.raises(UserError, match=r"cannot be cut: no step 'head\.in'"):
        site.cut("head.in")


def test_pictures_are_normalized_as_the_sites_own(site: SiteRound) -> None:
    pictures = torch.rand(2, 3, 2, 2)
    assert torch.equal(site.as_inputs(pictures), pictures)
    site.picture_scale = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    found = site.as_inputs(pictures)
    for channel, (mean, std) in enumerate(zip(*site.picture_scale, strict=True)):
        assert torch.allclose(found[:, channel], (pictures[:, channel] - mean) / std)


def test_a_second_model_begins_as_the_first_and_is_kept_without_what_is_frozen(
    site: SiteRound,
) -> None:
    before = {name: tensor.clone() for name, tensor in site.model.state_dict().items()}
    own = site.second("own")
    site.fit(network=own, trained={f"own.{n}": p for n, p in own.named_parameters() if "fc2" in n})
    assert all(torch.equal(site.model.state_dict()[n], t) for n, t in before.items())
    changed = {n for n, t in own.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"fc2.weight", "fc2.bias"}  # the BatchNorm of a frozen layer stood still too
    site.remember("own", own)
    assert {name.split(".")[1] for name in site.memory} == {"fc2", "bn2", "head"}
    again = site.second("own").state_dict()
    assert all(torch.equal(again[n], t) for n, t in own.state_dict().items())
    assert {n for n in site.optimizer_state if n.startswith("own.")} == {
        "own.fc2.weight",
        "own.fc2.bias",
    }


def test_a_second_model_of_another_network_is_refused(site: SiteRound) -> None:
    site.remember("own", {"head.out.weight": torch.zeros(3, 3)})
    with pytest.raises(UserError, match="'own' kept at this site is of another model"):
        site.second("own")


def test_what_is_remembered_replaces_all_of_before(site: SiteRound) -> None:
    site.remember("c", {"a": torch.ones(1), "b": torch.ones(1)})
    site.remember("c", {"a": torch.zeros(1)})
    assert site.kept("c").keys() == {"a"}


def test_two_models_see_the_same_batches_where_they_draw_alike(site: SiteRound) -> None:
    own = site.second("own")
    with site.same_draws():
        named = parameters_of(own, site.trainable())
        site.fit(network=own, trained={f"own.{name}": each for name, each in named.items()})
    site.fit()
    mine, theirs = own.state_dict(), site.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_part_that_runs_elsewhere_trains_with_the_modes_of_the_model(site: SiteRound) -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = site.body, site.out

        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.body(inputs)
            return self.out(features), features

    steps: list[int] = []
    assert changed_by(
        site,
        network=Doubled(),
        groups=["common"],
        loss=lambda given, labels: functional.cross_entropy(given[0], labels) + given[1].mean(),
        after_step=lambda: steps.append(1),
    ) == {"fc2"}
    assert len(steps) == 2
