"""DBE: the opening, both terms and the folded vector are those of numpy; the global mean stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import Message
from torch import Tensor

from client_app.round import PreparedRound
from fedstrata.protocol import answers, kinds
from fedstrata.protocol.orders import read_order
from fedstrata.support.errors import UserError
from models import weights
from models.training.loop import Diverged
from strategies.methods import make_method
from strategies.methods.dbe import DBE
from tests.helpers.method_rounds import (
    HIDDEN,
    LR,
    Numbers,
    Parameters,
    assert_close,
    cross_entropy,
    data_of,
    descended,
    features,
    gradient,
    linear,
    mean_of,
    parameters,
    site_of,
    tensors_of,
    weighted,
)
from tests.helpers.runs import SMALL, Crash, same, states
from tests.loopback import simulate

METHOD, VECTOR_ALONE, OFF = DBE(5.0, 0.5, True), DBE(0.0, 1.0, True), DBE(0.0, 1.0, False)
FEDAVG = make_method({"name": "fedavg"})
EXAMPLES = [6, 9]
RUN = [*SMALL, "method=dbe", "method.kappa=1", "train.optimizer.lr=0.005"]
MEANS = "state/means//extras.mean"


def test_the_opening_is_the_mean_of_features_after_a_round_alone() -> None:
    sites = [site_of(METHOD, i, examples=n) for i, n in enumerate(EXAMPLES)]
    of_each: list[Parameters] = []
    for site in sites:
        start = parameters(site.network.state_dict())
        METHOD.open(site)
        x, y = data_of(site)

        def loss(p: Parameters, x: Numbers = x, y=y) -> float:
            return cross_entropy(linear(features(x, p), p, "head.out"), y)

        of_each.append({"extras.mean": features(x, descended(loss, start)).mean(0)})
        assert_close(tensors_of(site), of_each[-1])
        assert not tensors_of(site)["extras.vector"].any()
    assert_close(mean_of(METHOD, sites, "means"), weighted(of_each, EXAMPLES))


def test_a_round_of_two_sites_is_that_of_numpy() -> None:
    """With a running mean, of which the earlier part gets no gradient."""
    torch.manual_seed(5)
    start = tensors_of(site_of(METHOD)) | {"extras.mean": torch.rand(HIDDEN)}
    target = start["extras.mean"].double().numpy()
    sites = [site_of(METHOD, i, examples=n, start=start) for i, n in enumerate(EXAMPLES)]
    expected = []
    for i, site in enumerate(sites):
        vector = site.extras.get_parameter("vector")
        with torch.no_grad():
            vector += 0.1 * (i + 1)
        p = {n: v for n, v in parameters(tensors_of(site)).items() if n != "extras.mean"}
        METHOD.train(site)
        x, y = data_of(site)
        before: Numbers | None = None
        for _ in range(2):

            def running(p: Parameters, x: Numbers = x, before: Numbers | None = before) -> Numbers:
                now = features(x, p).mean(0)
                return np.asarray(now if before is None else 0.5 * before + 0.5 * now)

            def loss(p: Parameters, x: Numbers = x, y=y, running: Any = running) -> float:
                outputs = linear(features(x, p) + p["extras.vector"], p, "head.out")
                off = (0.5 * (running(p) - target) ** 2).mean()
                return cross_entropy(outputs, y) + 5.0 * float(off)

            slope, before = gradient(loss, p), running(p)
            p = {n: v - LR * slope[n] for n, v in p.items()}
        assert_close(tensors_of(site), p)
        expected.append(p)
    mean = weighted(expected, EXAMPLES)
    made = mean_of(METHOD, sites, "common")
    assert_close(made, {name: mean[name] for name in made})
    assert "extras.vector" not in made


def test_without_regularization_and_vector_it_is_fedavg_bit_for_bit() -> None:
    one, other = site_of(OFF, momentum=0.9), site_of(FEDAVG, momentum=0.9)
    OFF.train(one)
    FEDAVG.train(other)
    assert same(tensors_of(one), tensors_of(other))
    assert OFF.predictor(one) is one.tail
    assert OFF.opening() == ()


@pytest.mark.parametrize("method", [METHOD, VECTOR_ALONE])
def test_the_vector_goes_into_the_bias_of_the_deployed_network(method: DBE) -> None:
    site = site_of(method)
    method.train(site)
    inputs = site.train.inputs.batch(np.arange(6))
    with torch.no_grad():
        wanted = method.predictor(site).eval()(inputs)
        plain = site.network.eval()(inputs)
        site.network.load_state_dict({**site.network.state_dict(), **method.deployed(site)})
        folded = site.network.eval()(inputs)
    assert torch.allclose(folded, wanted, atol=1e-5)
    assert not torch.allclose(plain, wanted, atol=1e-3)


def test_fine_tuning_of_the_vector_leaves_the_layers_alone() -> None:
    site = site_of(METHOD)
    before = tensors_of(site)
    METHOD.fine_tune(site, ("personal",), 2)
    after = tensors_of(site)
    assert {n for n in after if not torch.equal(after[n], before[n])} == {"extras.vector"}


def test_its_options_are_checked() -> None:
    with pytest.raises(UserError, match=r"method\.kappa must be 0 or greater"):
        DBE(-1.0, 1.0, True)
    with pytest.raises(UserError, match=r"method\.momentum must be above 0 and at most 1, got 0"):
        DBE(1.0, 0.0, True)


# -- whole runs ------------------------------------------------------------------------------------


class Watched:
    """Keeps what sites answered before round 1, and which means each training order had."""

    def __init__(self, dies_in: str = "") -> None:
        self.opened: list[tuple[int, Tensor]] = []
        self.received: list[Tensor] = []
        self._dies_in = dies_in

    def __call__(self, message: Message, reply: Message) -> Message:
        kind = message.metadata.message_type
        if kind == kinds.OPEN:
            found = safetensors.torch.load(answers.read_payloads(reply)["means"])
            examples = answers.read_round_report(reply).examples
            self.opened.append((examples, found["extras.mean"]))
        if kind == kinds.TRAIN:
            if message.metadata.group_id == self._dies_in:
                raise Crash
            payload = read_order(message).payloads["means"]
            self.received.append(safetensors.torch.load(payload)["extras.mean"])
        return reply

    def mean(self) -> Tensor:
        """Return the mean over the answers, weighted by examples."""
        total = sum(examples for examples, _ in self.opened)
        weighted = [examples / total * mean.double() for examples, mean in self.opened]
        return torch.stack(weighted).sum(0)


def test_the_global_mean_is_that_of_all_sites_and_does_not_change(tmp_path: Path) -> None:
    watched = Watched()
    results, _ = simulate(tmp_path, "faces", [*RUN, "strategy.fraction=0.5"], tamper=watched)
    assert len(watched.opened) == 4  # all sites, although half of them are drawn in a round
    found = states(tmp_path, results["run"])[MEANS]
    assert torch.allclose(found.double(), watched.mean(), atol=1e-6)
    assert len(watched.received) == 4
    assert all(torch.equal(each, found) for each in watched.received)
    assert [each["bytes_up"].keys() for each in results["rounds"][:2]] == [
        {"common", "means"},
        {"common"},
    ]


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Broken off before the first checkpoint it opens again; afterwards it has the mean."""
    whole, _ = simulate(tmp_path / "whole", "faces", RUN, sites=2)
    for dies_in, opened in (("1", 2), ("2", 0)):
        output = tmp_path / dies_in
        with pytest.raises(Crash):
            simulate(output, "faces", RUN, sites=2, tamper=Watched(dies_in))
        again = Watched()
        resumed, _ = simulate(output, "faces", RUN, sites=2, resume="latest", tamper=again)
        assert len(again.opened) == opened
        assert same(states(tmp_path / "whole", whole["run"]), states(output, resumed["run"]))


def test_a_run_that_goes_back_to_its_start_opens_again_without_whom_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trained: list[int] = []
    train = PreparedRound.train

    def broken(self: PreparedRound) -> None:
        site, number = self.context.data.site, self.number
        trained.append(number)
        if number == 2 and trained.count(1) == 4:  # only the first time
            raise Diverged("the loss became nan")
        train(self)
        if number == 1 and site == "site-01":  # so that it stands out
            with torch.no_grad():
                for parameter in self.site_round.trainable().values():
                    parameter *= 50

    monkeypatch.setattr(PreparedRound, "train", broken)
    watched = Watched()
    results, _ = simulate(
        tmp_path, "faces", [*RUN, "strategy.bounds.norm_factor=null"], tamper=watched
    )
    assert "back to the state of round 0" in caplog.text
    assert "site-01" not in results["rounds"][0]["participants"]
    found = states(tmp_path, results["run"])[MEANS]
    # All four, then those that are left, each with the same as before.
    assert len(watched.opened) == 4 + 3
    once, again = watched.opened[:4], watched.opened[4:]
    assert all(any(torch.equal(mean, first) for _, first in once) for _, mean in again)
    rest = torch.stack([mean.double() * examples for examples, mean in again]).sum(0)
    assert torch.allclose(found.double(), rest / sum(each for each, _ in again), atol=1e-6)


def test_the_site_keeps_its_vector_and_writes_a_network_that_predicts_alone(tmp_path: Path) -> None:
    results, _ = simulate(tmp_path, "faces", [*RUN, "keep_models=last"], sites=2)
    (path,) = tmp_path.rglob("site-00*/**/models/last.safetensors")
    tensors, _ = weights.load(path)
    assert tensors["extras.vector"].any()
    assert not any("vector" in name for name in states(tmp_path, results["run"]))
