"""FedRep trains the head alone, then the body alone, and averages the body."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedstrata.support.errors import UserError
from models.training.loop import FitReport
from strategies.methods import make_method
from strategies.methods.fedrep import FedRep
from tests.helpers.method_rounds import data_of, mean_of, weighted
from tests.helpers.methods import groups_of
from tests.helpers.site_rounds import (
    LR,
    close,
    loss_and_gradients,
    moved,
    part,
    tiny_round,
    weights_of,
)

METHOD = make_method({"name": "fedrep", "personal": ["head"], "head_epochs": 2})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"fc2", "bn2"},
        "personal": {"head"},
    }


def test_a_head_that_nobody_trains_is_an_error() -> None:
    with pytest.raises(UserError, match=r"method\.head_epochs must be 1 or greater, got 0"):
        make_method({"name": "fedrep", "personal": ["head"], "head_epochs": 0})


def test_a_round_of_two_sites_is_that_of_the_paper() -> None:
    sites = [tiny_round(METHOD, seed, examples=n) for seed, n in enumerate((8, 12))]
    expected = []
    for site in sites:
        w, (inputs, labels) = weights_of(site), data_of(site)
        for _ in range(2):
            w = moved(w, part(loss_and_gradients(w, inputs, labels)[1], "head"), -LR)
        w = moved(w, part(loss_and_gradients(w, inputs, labels)[1], "fc1"), -LR)
        METHOD.train(site)
        assert close(site, w)
        expected.append(part(w, "fc1"))
    after = mean_of(METHOD, sites, "common")
    mean = weighted(expected, [8, 12])
    assert after.keys() == mean.keys()  # the head is in no update
    assert all(np.allclose(after[n].numpy(), each, atol=1e-6) for n, each in mean.items())


def test_with_a_frozen_body_one_pass_is_that_of_fedper_bit_for_bit() -> None:
    frozen = {"pretrained": ["fc1"], "common": ["head"]}
    once = make_method({"name": "fedrep", "personal": ["head"], "head_epochs": 1})
    fedper = make_method({"name": "fedper", "personal": ["head"]})
    sites = [tiny_round(each, groups=frozen, batch_size=3) for each in (once, fedper)]
    for method, site in zip((once, fedper), sites, strict=True):
        method.train(site)
    one, other = (site.network.state_dict() for site in sites)
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_all_its_steps_are_counted() -> None:
    site = tiny_round(METHOD, batch_size=4, steps=3, epochs=None)
    METHOD.train(site)
    assert [fit.steps for fit in site.fits] == [2 * 2, 3]  # two passes of 8 examples, then 3 steps


def test_each_phase_leaves_the_other_part_alone_its_running_statistics_too() -> None:
    site = tiny_round(METHOD, model_name="mlp_bn")
    layers: list[set[str]] = []
    plain = site.fit

    def watched(**options: Any) -> FitReport:
        before = {name: tensor.clone() for name, tensor in site.network.state_dict().items()}
        report = plain(**options)
        after = site.network.state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        layers.append({name.rpartition(".")[0] for name in changed})
        assert ("bn1.running_mean" in changed) == ("fc1.weight" in changed)
        return report

    site.fit = watched  # type: ignore[method-assign]
    METHOD.train(site)
    assert layers == [{"head.out"}, {"fc1", "bn1"}]


def test_the_head_trains_on_features_as_it_does_behind_the_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sites = [tiny_round(METHOD, model_name="mlp_bn", batch_size=3) for _ in range(2)]
    runs: list[int] = []
    sites[0].network.get_submodule("fc1").register_forward_hook(lambda *_: runs.append(1))
    METHOD.train(sites[0])
    monkeypatch.setattr(FedRep, "_features", lambda *_: None)
    METHOD.train(sites[1])
    one, other = (site.network.state_dict() for site in sites)
    assert all(torch.allclose(one[n], other[n], rtol=0, atol=1e-6) for n in one)
    # One pass of the body for its features, and one to train it: 8 examples in batches of 3.
    assert len(runs) == 1 + 3 + 3
