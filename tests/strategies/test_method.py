"""Three more methods, each in one class, show that the interface of a method is enough."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from torch import Tensor, nn

from client_app.store import DiskStore
from fedstrata.support.errors import UserError
from models.groups import partition_tensors
from strategies import methods
from strategies.method import Groups, Method, with_rest_in
from strategies.methods import make_method
from strategies.site_round import SiteRound
from tests.helpers.prototypes import FedProto
from tests.helpers.runs import SMALL, states
from tests.loopback import LoopbackGrid, simulate

SEEN: dict[str, list[bool]] = {}
FEDPROX = {"name": "fedprox", "mu": 0.1, "adapt": False, "step": 0.1}


@dataclass(frozen=True)
class FedRep(Method):
    """Alternating phases (Collins et al. 2021): first the head, then the body."""

    head_epochs: int
    name = "fedrep"

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        del model
        return with_rest_in(configured, "common", personal=["head"])

    def train(self, site: SiteRound) -> None:
        body = {n: t.clone() for n, t in site.model.state_dict().items() if "head" not in n}
        site.fit(groups=["personal"], epochs=self.head_epochs)
        still = all(torch.equal(t, site.model.state_dict()[n]) for n, t in body.items())
        head = {n: t.clone() for n, t in site.model.state_dict().items() if "head" in n}
        site.fit(groups=["common"], epochs=1)
        after = site.model.state_dict()
        SEEN.setdefault("body still", []).append(still)
        SEEN.setdefault("head still", []).append(
            all(torch.equal(t, after[n]) for n, t in head.items())
        )
        SEEN.setdefault("body moved", []).append(
            not torch.equal(body["conv1.weight"], after["conv1.weight"])
        )


@dataclass(frozen=True)
class Pulled(Method):
    """A second, personal model (Li et al. 2021): pulled towards what was received, never sent."""

    pull: float
    name = "pulled"

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        del model
        return with_rest_in(configured, "common")

    def _own(self, site: SiteRound) -> nn.Module:
        own = copy.deepcopy(site.tail)
        if site.memory:
            own.load_state_dict({n.removeprefix("own."): t for n, t in site.memory.items()})
        return own

    def train(self, site: SiteRound) -> None:
        own = self._own(site)
        parameters = dict(own.named_parameters())
        received = {n: site.received[n].clone() for n in parameters}

        def pulled() -> Tensor:
            squared = [torch.sum((p - received[n]) ** 2) for n, p in parameters.items()]
            return 0.5 * self.pull * torch.stack(squared).sum()

        site.fit()
        own.train()
        site.fit(network=own, trained=parameters, penalty=pulled)
        site.memory.update({f"own.{n}": t for n, t in own.state_dict().items()})

    def predictor(self, site: SiteRound) -> nn.Module:
        return self._own(site)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    every = {**methods.METHODS, "fedrep": FedRep, "pulled": Pulled, "fedproto": FedProto}
    monkeypatch.setattr(methods, "METHODS", every)


def test_alternating_phases_leave_the_other_part_alone(tmp_path: Path) -> None:
    overrides = [*SMALL, "method.name=fedrep", "+method.head_epochs=2"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    assert set(SEEN) == {"body still", "head still", "body moved"}
    assert all(all(values) for values in SEEN.values())
    site = results["rounds"][0]["sites"]["site-00"]
    assert site["steps"] == site["planned_steps"] == 3 * 3  # 24 examples in batches of 8


def test_a_second_model_stays_at_the_site(tmp_path: Path) -> None:
    overrides = [*SMALL, "method.name=pulled", "+method.pull=0.1"]
    replies: list[bytes] = []

    def recorded(_: Message, reply: Message) -> Message:
        replies.extend(array.data for array in reply.content["layers"].values())  # type: ignore[union-attr]
        return reply

    results, grid = simulate(tmp_path, "faces", overrides, sites=2, tamper=recorded)
    kept = [DiskStore(tmp_path, results["federation"], f"site-0{i}").before(3) for i in range(2)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert "own.conv1.weight" in kept[0].memory
    assert not torch.equal(kept[0].memory["own.conv1.weight"], kept[1].memory["own.conv1.weight"])
    assert not any("own" in name for name in states(tmp_path, results["run"]))
    assert len(replies) == 4  # of two sites in two rounds
    sent = [array.data for m in grid.sent for array in m.content["layers"].values()]  # type: ignore[union-attr]
    last = states(tmp_path, results["run"])["state/common//conv1.weight"]
    assert any(start_of(last) in data for data in sent)  # what is searched for would be found
    own = [start_of(each.memory["own.conv1.weight"]) for each in kept if each is not None]
    assert not any(start in data for start in own for data in [*replies, *sent])


def start_of(tensor: Tensor) -> bytes:
    """Return the first bytes of a tensor, as they stand in a payload."""
    return tensor.numpy().tobytes()[:48]


def test_a_payload_that_is_no_layer_travels_in_a_group_of_its_own(tmp_path: Path) -> None:
    overrides = [*SMALL, "method.name=fedproto", "+method.weight=0.1"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2)
    assert set(results["rounds"][0]["bytes_up"]) == {"prototypes"}
    (means,) = states(tmp_path, results["run"]).values()
    assert means.shape == (2, 256)
    assert means.abs().sum() > 0
    assert results["partition"]["gender"][-1]["sent_to"] == "all sites"


def test_a_method_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(Exception, match=r"fedavg.*fedprox"):
        make_method({"name": "fedavgg"})
    with pytest.raises(Exception, match=r"method has no option 'muu'; there is 'mu'"):
        make_method({**FEDPROX, "muu": 1})
    with pytest.raises(Exception, match=r"method\.mu must be 0 or greater"):
        make_method({**FEDPROX, "mu": -1.0})


def test_fedprox_takes_partial_work_and_fedavg_does_not() -> None:
    assert make_method(FEDPROX).reject_reason(3, 10) is None
    assert make_method(FEDPROX).reject_reason(0, 10)
    assert "3 of 10" in str(make_method({"name": "fedavg"}).reject_reason(3, 10))


def test_a_site_with_a_limit_of_steps_takes_part_where_the_method_allows(tmp_path: Path) -> None:
    nodes = {i: {"partition-id": i, "num-partitions": 2} for i in range(2)}
    nodes[1]["max-steps"] = 1
    grid = LoopbackGrid(nodes, {"output-dir": str(tmp_path)})
    results, _ = simulate(tmp_path, "faces", [*SMALL, "method=fedprox"], grid=grid)
    assert "site-01" in results["rounds"][0]["participants"]
    expected = (
        r"site-01: this site's max-steps=1 .*did 1 of 3 steps.*method fedprox accepts partial work"
    )
    with pytest.raises(UserError, match=expected):
        simulate(tmp_path, "faces", [*SMALL, "method=fedavg"], grid=grid)
    # where fine-tuning follows, it has something to join for
    tuned = [*SMALL, "method=fedavg", "deployment.epochs=1"]
    results, _ = simulate(tmp_path, "faces", [*tuned, "deployment.groups=[common]"], grid=grid)
    assert "1 of 3 steps" in results["rounds"][0]["refused"]["site-01"]
    assert results["deployment"]["sites"]["site-01"]["steps"] == 1


@pytest.mark.parametrize(("method", "group"), [("local", "personal"), ("fedavg", "common")])
def test_a_method_takes_what_is_trained_where_the_rest_is_frozen(method: str, group: str) -> None:
    configured = {"pretrained": ["..."], "common": ["layer4"], "task": ["head"], "personal": []}
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("layer3", "layer4", "head")})
    groups = make_method({"name": method}).groups(configured, model)
    made = partition_tensors(model, groups)
    assert set(made.names("pretrained")) == {"layer3.weight", "layer3.bias"}
    assert len(made.names(group)) == 4
