"""FedProx uses the configured groups, accepts partial work, and may adapt its weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedstrata.support.errors import UserError
from strategies.methods import make_method
from tests.helpers.method_rounds import data_of, mean_of, weighted
from tests.helpers.methods import groups_of
from tests.helpers.runs import SMALL, same, states
from tests.helpers.site_rounds import (
    LR,
    close,
    loss_and_gradients,
    moved,
    tiny_round,
    weights_of,
)
from tests.loopback import simulate

OPTIONS = {"name": "fedprox", "mu": 0.5, "adapt": False, "step": 0.1}
METHOD = make_method(OPTIONS)
ADAPTIVE = make_method({**OPTIONS, "adapt": True})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"fc2", "bn2"},
        "task": {"head"},
    }


def test_one_step_is_enough_and_none_is_not() -> None:
    assert METHOD.reject_reason(1, 10) is None
    assert METHOD.reject_reason(0, 10)


def test_a_value_out_of_its_range_is_an_error() -> None:
    with pytest.raises(UserError, match=r"method\.mu must be 0 or greater"):
        make_method({**OPTIONS, "mu": -1.0})
    with pytest.raises(UserError, match=r"method\.step must be above 0, got 0"):
        make_method({**OPTIONS, "step": 0.0})


@pytest.mark.parametrize("method", [METHOD, ADAPTIVE], ids=["fixed", "adaptive"])
def test_a_round_of_two_sites_is_that_of_the_paper(method) -> None:  # type: ignore[no-untyped-def]
    sites = [tiny_round(method, seed, examples=n, epochs=3) for seed, n in enumerate((8, 12))]
    expected, losses = [], []
    for site in sites:
        start, data = weights_of(site), data_of(site)
        losses.append(loss_and_gradients(start, *data)[0])
        w = dict(start)
        for _ in range(3):
            slope = loss_and_gradients(w, *data)[1]
            w = moved(w, {n: g + 0.5 * (w[n] - start[n]) for n, g in slope.items()}, -LR)
        method.train(site)
        assert close(site, w)
        expected.append(w)
    after = mean_of(method, sites, "common")
    mean = weighted(expected, [8, 12])
    assert all(np.allclose(after[n].numpy(), each, atol=1e-6) for n, each in mean.items())
    if method is ADAPTIVE:
        sent = mean_of(method, sites, "proximal")
        assert float(sent["extras.loss"]) == pytest.approx(np.average(losses, weights=[8, 12]))
        assert float(sent["extras.mu"]) == 0.5  # there is no round before to compare with


def test_the_weight_is_the_one_that_arrived() -> None:
    found = []
    for method, start in (
        (ADAPTIVE, {"extras.mu": torch.tensor([0.25])}),
        (make_method({**OPTIONS, "mu": 0.25}), {}),
        (ADAPTIVE, {"extras.mu": torch.tensor([-3.0])}),  # from the wire: never below 0
        (make_method({**OPTIONS, "mu": 0.0}), {}),
    ):
        site = tiny_round(method, start=start, batch_size=3, epochs=2)
        method.train(site)
        found.append(site.network.state_dict())
    assert same(found[0], found[1])
    assert same(found[2], found[3])
    assert not same(found[1], found[3])


def test_only_with_adapt_a_site_sends_its_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fixed, _ = simulate(tmp_path / "a", "faces", [*SMALL, "method=fedprox"], sites=2)
    chosen = [*SMALL, "method=fedprox", "method.adapt=true", "method.mu=0.01"]
    adaptive, _ = simulate(tmp_path / "b", "faces", chosen, sites=2)
    assert set(fixed["rounds"][0]["bytes_up"]) == {"common"}
    assert set(adaptive["rounds"][0]["bytes_up"]) == {"common", "proximal"}
    # A loss is no change of what was received: no site is refused for the size of its loss.
    assert {each.partition(",")[0] for each in adaptive["rounds"][0]["norms"]} == {"common"}
    assert "memory for none: common" in caplog.text
    assert "none: common, proximal" not in caplog.text
    learned = states(tmp_path / "b", adaptive["run"])
    loss, mu = (float(learned[f"state/proximal//extras.{name}"]) for name in ("loss", "mu"))
    assert loss > 0
    rose = mu == pytest.approx(0.11)
    assert rose or mu == pytest.approx(0.01)
    # In round 1 both train with the same weight; then the layers differ only where mu did.
    layers = states(tmp_path / "a", fixed["run"])
    assert same(layers, {n: learned[n] for n in layers})
