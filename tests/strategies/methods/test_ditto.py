"""Ditto trains a personal model beside the one of FedAvg, near what was received."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from torch import Tensor

from client_app.store import DiskStore, LocalState
from fedstrata.support.errors import UserError
from strategies.methods import make_method
from tests.helpers.method_rounds import data_of, mean_of, weighted
from tests.helpers.methods import groups_of
from tests.helpers.runs import SMALL, same, states, without_times
from tests.helpers.site_rounds import (
    LR,
    close,
    loss_and_gradients,
    moved,
    tiny_round,
    weights_of,
)
from tests.loopback import simulate

PULL = 0.5
METHOD = make_method({"name": "ditto", "pull": PULL})


def test_its_groups_are_those_of_its_paper() -> None:
    assert groups_of(METHOD) == {
        "pretrained": {"fc1", "bn1"},
        "common": {"fc2", "bn2", "head"},
    }


def test_the_pull_is_not_negative() -> None:
    with pytest.raises(UserError, match=r"method\.pull must be 0 or greater, got -1"):
        make_method({"name": "ditto", "pull": -1.0})


def test_a_round_of_two_sites_is_that_of_the_paper() -> None:
    own = {f"own.{n}": t + 0.1 for n, t in tiny_round(METHOD).network.state_dict().items()}
    sites = [
        tiny_round(METHOD, seed, examples=n, epochs=2, memory=own if seed else {})
        for seed, n in enumerate((8, 12))
    ]
    expected = []
    for seed, site in enumerate(sites):
        start, data = weights_of(site), data_of(site)
        w, v = dict(start), {n: each + 0.1 * seed for n, each in start.items()}
        for _ in range(2):
            w = moved(w, loss_and_gradients(w, *data)[1], -LR)
            slope = loss_and_gradients(v, *data)[1]
            v = moved(v, {n: g + PULL * (v[n] - start[n]) for n, g in slope.items()}, -LR)
        METHOD.train(site)
        assert close(site, w)
        predictor, deployed = METHOD.predictor(site).state_dict(), METHOD.deployed(site)
        assert deployed is not None
        for name, each in v.items():
            assert np.allclose(predictor[name].numpy(), each, atol=1e-6)
            assert torch.equal(predictor[name], deployed[name])
        expected.append(w)
    after = mean_of(METHOD, sites, "common")
    mean = weighted(expected, [8, 12])
    assert all(np.allclose(after[n].numpy(), each, atol=1e-6) for n, each in mean.items())


def test_fine_tuning_trains_the_personal_model_near_the_final_one() -> None:
    own = {f"own.{n}": t + 0.1 for n, t in tiny_round(METHOD).network.state_dict().items()}
    site = tiny_round(METHOD, memory=own)
    start, data = weights_of(site), data_of(site)
    v = {n: each + 0.1 for n, each in start.items()}
    for _ in range(3):
        slope = loss_and_gradients(v, *data)[1]
        v = moved(v, {n: g + PULL * (v[n] - start[n]) for n, g in slope.items()}, -LR)
    METHOD.fine_tune(site, ["common"], 3)
    tuned = METHOD.predictor(site).state_dict()
    assert all(np.allclose(tuned[n].numpy(), each, atol=1e-6) for n, each in v.items())
    assert close(site, start)


def test_the_personal_model_of_another_model_is_an_error() -> None:
    site = tiny_round(METHOD, memory={"own.fc1.weight": torch.zeros(7, 7)})
    with pytest.raises(UserError, match="second model 'own' kept at this site is of another model"):
        METHOD.predictor(site)


def kept_at(folder: Path, federation: str, site: str) -> LocalState:
    state = DiskStore(folder, federation, site).before(3)
    assert state is not None
    return state


def test_pull_0_equals_local_and_fedavg_bit_for_bit(tmp_path: Path) -> None:
    found = {}
    for method in ("ditto", "local", "fedavg"):
        off = ["method.pull=0"] if method == "ditto" else []
        chosen = [*SMALL, f"method={method}", *off]
        found[method], _ = simulate(tmp_path / method, "faces", chosen, sites=2)
    ditto, local = found["ditto"], found["local"]
    # What is averaged is FedAvg's.
    layers = [states(tmp_path / name, found[name]["run"]) for name in ("ditto", "fedavg")]
    assert same(*layers)
    # What each site measures is that of training alone, in every round.
    for mine, theirs in zip(ditto["rounds"], local["rounds"], strict=True):
        for site in mine["sites"]:
            measured = [each["sites"][site] for each in (mine, theirs)]
            assert all(measured[0][key] == measured[1][key] for key in ("loss", "validation"))
    for site in ("site-00", "site-01"):
        final = [without_times(each["final"]["sites"][site]) for each in (ditto, local)]
        assert final[0] == final[1]
        own = kept_at(tmp_path / "ditto", ditto["federation"], site)
        alone = kept_at(tmp_path / "local", local["federation"], site)
        # The personal model, its counters and its momentum are those of the personal layers.
        assert same({n.removeprefix("own."): t for n, t in own.memory.items()}, alone.tensors)
        momentum = {n.removeprefix("own."): s for n, s in own.optimizer.items()}
        assert momentum.keys() == alone.optimizer.keys()
        assert all(same(momentum[n], alone.optimizer[n]) for n in momentum)


def test_the_personal_model_is_in_no_message(tmp_path: Path) -> None:
    replies: list[bytes] = []

    def recorded(_: Message, reply: Message) -> Message:
        replies.extend(array.data for array in reply.content["layers"].values())  # type: ignore[union-attr]
        return reply

    chosen = [*SMALL, "method=ditto"]
    results, grid = simulate(tmp_path, "faces", chosen, sites=2, tamper=recorded)
    own = [
        kept_at(tmp_path, results["federation"], site).memory["own.conv1.weight"]
        for site in ("site-00", "site-01")
    ]
    assert not torch.equal(*own)
    sent = [array.data for m in grid.sent for array in m.content["layers"].values()]  # type: ignore[union-attr]
    last = states(tmp_path, results["run"])["state/common//conv1.weight"]
    assert len(replies) == 4  # of two sites in two rounds
    assert any(start_of(last) in data for data in sent)  # what is searched for would be found
    assert not any(start_of(each) in data for each in own for data in [*replies, *sent])


def start_of(tensor: Tensor) -> bytes:
    """Return the first bytes of a tensor, as they stand in a payload."""
    return tensor.numpy().tobytes()[:48]
