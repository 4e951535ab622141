"""FedALA mixes a site's last layers into what it received, by weights that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedstrata.support.errors import UserError
from strategies.methods import make_method
from strategies.methods.fedala import FedALA, exchanged_layers
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

OPTIONS = {
    "name": "fedala",
    "layers": 1,
    "share": 1.0,
    "rate": 2.0,
    "tolerance": 0.0,
    "window": 2,
    "most_passes": 1,
}
METHOD = make_method(OPTIONS)


def own_head(seed: int) -> dict[str, Tensor]:
    """Return what a site had in its head, far from what it receives."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"head.out.weight": (2, 4), "head.out.bias": (2,)}
    return {f"local.{n}": torch.randn(s, generator=generator) for n, s in shapes.items()}


def test_its_groups_are_the_configured_ones() -> None:
    assert groups_of(METHOD)["task"] == {"head"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("layers", 0, r"method\.layers must be 1 or greater, got 0"),
        ("share", 0.0, r"method\.share must be above 0 and at most 1"),
        ("rate", -1.0, r"method\.rate must be 0 or greater"),
        ("tolerance", -1.0, r"method\.tolerance must be 0 or greater"),
        ("window", 1, r"method\.window must be 2 or greater"),
        ("most_passes", 0, r"method\.most_passes must be 1 or greater"),
    ],
)
def test_a_value_out_of_its_range_is_an_error(key: str, value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_method({**OPTIONS, key: value})


def test_more_layers_than_are_exchanged_are_an_error() -> None:
    three = make_method({**OPTIONS, "layers": 3})
    with pytest.raises(UserError, match=r"method\.layers=3 .* exchanges 2: write fewer"):
        tiny_round(three)
    with pytest.raises(UserError, match="exchanges 0: put layers into the groups common or task"):
        tiny_round(METHOD, groups={"personal": ["..."]})


def test_a_round_of_two_sites_is_that_of_the_paper() -> None:
    sites = [
        tiny_round(METHOD, seed, examples=n, memory=own_head(seed))
        for seed, n in enumerate((8, 12))
    ]
    expected, held = [], 0
    for seed, site in enumerate(sites):
        w, data = weights_of(site), data_of(site)
        slope, mixed = loss_and_gradients(w, *data)[1], dict(w)
        for name, local in own_head(seed).items():
            name = name.removeprefix("local.")
            apart = w[name] - local.double().numpy()
            weight = np.clip(1 - 2.0 * slope[name] * apart, 0, 1)
            held += int((weight < 1).sum())
            mixed[name] = local.double().numpy() + apart * weight
        METHOD.receive(site)
        assert close(site, mixed)
        assert np.array_equal(mixed["fc1.weight"], w["fc1.weight"])  # not among the last layers
        w = moved(mixed, loss_and_gradients(mixed, *data)[1], -LR)
        METHOD.train(site)
        assert close(site, w)
        kept = site.kept("local")
        assert kept.keys() == part(w, "head").keys()
        assert all(torch.equal(kept[n], site.network.state_dict()[n]) for n in kept)
        expected.append(w)
    assert held  # some weights are below 1
    after = mean_of(METHOD, sites, "common")
    mean = weighted(expected, [8, 12])
    assert all(np.allclose(after[n].numpy(), each, atol=1e-6) for n, each in mean.items())


def test_the_weights_are_kept_and_learned_in_one_pass_from_then_on() -> None:
    long = make_method({**OPTIONS, "most_passes": 4, "share": 0.5, "tolerance": 0.0})
    site = tiny_round(long, memory=own_head(0), batch_size=2)
    long.receive(site)
    assert [fit.steps for fit in site.fits] == [2] * 4  # half of 8 examples, in batches of 2
    learned = site.kept("weights")
    assert all(bool(((each >= 0) & (each <= 1)).all()) for each in learned.values())
    later = tiny_round(long, memory=site.memory, batch_size=2)
    long.receive(later)
    assert [fit.steps for fit in later.fits] == [2]
    still = make_method({**OPTIONS, "rate": 1e-30})
    unmoved = tiny_round(still, memory=site.memory)
    still.receive(unmoved)
    assert all(torch.equal(each, learned[n]) for n, each in unmoved.kept("weights").items())


def test_the_first_learning_ends_where_the_loss_stands_still() -> None:
    calm = make_method({**OPTIONS, "tolerance": 10.0, "window": 3, "most_passes": 30})
    site = tiny_round(calm, memory=own_head(0))
    calm.receive(site)
    assert len(site.fits) == 3


def test_what_is_received_is_mixed_the_same_each_time_and_training_draws_as_without() -> None:
    found, sites = [], [tiny_round(METHOD, memory=own_head(0), batch_size=3) for _ in range(2)]
    for site in sites:
        METHOD.receive(site)
        found.append({**site.model.state_dict(), **site.memory})
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    fresh = tiny_round(METHOD).generator
    assert sites[0].generator.bit_generator.state == fresh.bit_generator.state


def test_in_the_first_round_what_is_received_is_taken_as_it_is() -> None:
    site = tiny_round(METHOD)
    before = weights_of(site)
    METHOD.receive(site)
    assert close(site, before)
    assert not site.fits


def test_rate_0_trains_as_layers_bit_for_bit_and_keeps_nothing() -> None:
    off, plain = make_method({**OPTIONS, "rate": 0.0}), make_method({"name": "layers"})
    memory: dict[str, Tensor] = {}
    for _ in range(2):
        sites = [tiny_round(each, memory=memory, batch_size=3) for each in (off, plain)]
        for method, site in zip((off, plain), sites, strict=True):
            method.receive(site)
            method.train(site)
        memory = sites[0].memory
        one, other = (site.network.state_dict() for site in sites)
        assert all(torch.equal(one[n], other[n]) for n in one)
    assert not memory


def test_layers_kept_of_another_model_are_an_error() -> None:
    site = tiny_round(METHOD, memory={"local.head.out.weight": torch.zeros(7, 7)})
    with pytest.raises(UserError, match="the layers kept at this site are of another model"):
        METHOD.receive(site)


def test_the_limit_of_steps_ends_the_learning() -> None:
    assert isinstance(METHOD, FedALA)
    site = tiny_round(make_method({**OPTIONS, "most_passes": 9}), memory=own_head(0), batch_size=4)
    site.max_steps = 3
    METHOD.receive(site)
    assert sum(fit.steps for fit in site.fits) <= 3


def test_layers_are_counted_from_the_output() -> None:
    site = tiny_round(METHOD)
    assert exchanged_layers(site.model, site.partition) == ["fc1", "head.out"]
