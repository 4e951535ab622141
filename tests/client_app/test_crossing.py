"""A site's part in a cross-site table: what it sends, what it keeps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from client_app import crossing, orders
from client_app.context import SiteContext
from client_app.crossing import measure_model, train_to_cross
from fedstrata.protocol.answers import DeployReport, RoundReport
from fedstrata.protocol.orders import Order
from fedstrata.protocol.payload import encode
from fedstrata.support.errors import UserError
from models.model_file import network_of, read_model, write_model
from models.training.loop import schedule_factor
from tests.helpers.site_contexts import opened, order, payloads, plan_of

FULL = ["train.feature_dtype=float32"]


def of_model(site: str) -> Order:
    """Return the order to measure the model that a site deploys."""
    return order(3)._replace(of=site, keep="deployed")


def test_the_exchanged_layers_leave_and_nothing_is_kept() -> None:
    context = opened(plan_of("cross_site=updates", "strategy.coding.common=int8"))
    layers = payloads(context)
    orders.train(context, order(1, layers))
    kept = {path.name: path.read_bytes() for path in context.store.folder.iterdir()}
    _, first = train_to_cross(context, order(2, layers))
    report, again = train_to_cross(context, order(2, layers))
    assert first == again
    assert report.metrics.keys() == {"validation", "test"}
    assert {path.name: path.read_bytes() for path in context.store.folder.iterdir()} == kept
    own = context.partitioned.partition
    for group, data in again.items():
        tensors = safetensors.torch.load(data)
        assert tensors.keys() == set(own.exchanged_names(group))
        before = safetensors.torch.load(layers[group])
        assert any(not torch.equal(tensors[name], before[name]) for name in tensors)


def test_it_trains_at_the_rate_of_the_last_round(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("cross_site=updates", "strategy.rounds=4", "train.schedule=cosine")
    context = opened(plan)
    factors = []
    whole = type(context.method).train

    def noted(self: object, site: object) -> None:
        factors.append(site.settings.lr_factor)  # type: ignore[attr-defined]
        whole(self, site)  # type: ignore[arg-type]

    monkeypatch.setattr(type(context.method), "train", noted)
    train_to_cross(context, order(5, payloads(context)))
    assert factors == [schedule_factor("cosine", 4, 4)]
    assert factors[0] > 0


def test_a_plan_without_the_table_sends_nothing() -> None:
    for overrides in ([], ["cross_site=models"]):
        context = opened(plan_of(*overrides))
        with pytest.raises(UserError, match="layers to measure at other sites"):
            train_to_cross(context, order(2, payloads(context)))


def test_layers_of_another_site_are_measured_with_the_personal_ones_here() -> None:
    context = opened(plan_of("cross_site=updates"))
    wanted = order(2, payloads(context))._replace(of="site-01")
    report, layers = orders.evaluate_received(context, wanted)
    assert layers == {}
    assert isinstance(report, RoundReport)
    assert (report.interval, report.by_class) == (None, None)  # no more leaves than the table has


def test_a_deployed_site_measures_no_other_sites_model() -> None:
    context = opened(plan_of("cross_site=models"))
    deployed = replace(context, node=replace(context.node, simulated=False))
    with pytest.raises(UserError, match="no site's personal layers leave it"):
        orders.evaluate_received(deployed, of_model("site-01"))
    with pytest.raises(UserError, match="site-01 has no deployed model in its folder"):
        orders.evaluate_received(context, of_model("site-01"))
    without = opened(plan_of())
    with pytest.raises(UserError, match="cross_site=models is for simulations"):
        orders.evaluate_received(without, of_model("site-01"))


def tuned_model(method: str, *more: str) -> tuple[SiteContext, SiteContext, DeployReport]:
    """Return a site that has deployed its model, another one of its task, and what the first said."""
    plan = plan_of(f"method={method}", "cross_site=models", "deployment.epochs=1", *FULL, *more)
    owner, other = (opened(plan, **{"partition-id": i, "num-partitions": 4}) for i in (0, 2))
    layers = payloads(owner)
    if "prototypes" in layers:  # there are some, and they differ
        begun = safetensors.torch.load(layers["prototypes"])
        drawn = torch.Generator().manual_seed(0)
        known = {name: torch.rand(t.shape, generator=drawn) + 1 for name, t in begun.items()}
        layers["prototypes"] = encode(known)
    for number in (1, 2):
        orders.train(owner, order(number, layers))
    report, _ = orders.deploy(owner, order(3, layers))
    assert isinstance(report, DeployReport)
    return owner, other, report


@pytest.mark.parametrize("method", ["layers", "ditto", "apfl", "dbe", "fedala", "per_fedavg"])
def test_another_sites_model_is_measured_as_its_file_predicts(method: str) -> None:
    owner, other, report = tuned_model(method)
    at_home = measure_model(owner, of_model("site-00"))
    assert at_home.metrics["test"]["loss"] == pytest.approx(report.after["test"]["loss"], abs=1e-5)
    network = network_of(read_model(owner.store.deployed))
    test = other.data.test
    outputs = network(test.inputs.batch(np.arange(len(test))))
    loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(test.labels)).item()
    report_there = measure_model(other, of_model("site-00"))
    assert report_there.metrics["test"]["loss"] == pytest.approx(loss, abs=2e-5)
    assert (report_there.site, report_there.examples) == ("site-02", len(other.data.train))


@pytest.mark.parametrize("method", ["fedcp", "gpfl", "fedproto"])
def test_what_no_file_predicts_is_measured_as_the_method_does_at_its_site(method: str) -> None:
    more = ["method.predict=nearest"] if method == "fedproto" else []
    owner, other, report = tuned_model(method, *more)
    at_home = measure_model(owner, of_model("site-00"))
    assert at_home.metrics["test"]["loss"] == pytest.approx(report.after["test"]["loss"], abs=1e-5)
    model = read_model(owner.store.deployed)
    assert not model.card.predicts_alone
    _, network = crossing._network_of_method(other, of_model("site-00"), model)
    assert measure_model(other, of_model("site-00")).site == "site-02"
    if method == "gpfl":  # its condition is of the owner's classes, not of those here
        counts = np.bincount(owner.data.train.labels, minlength=2)
        shares = torch.tensor(counts / counts.sum(), dtype=torch.float32)
        expected = shares @ model.tensors["extras.classes.weight"]
        assert torch.allclose(network.personal, expected)  # type: ignore[arg-type]


def test_a_model_of_another_network_is_measured_on_the_data_as_they_are() -> None:
    owner, other, _ = tuned_model("layers")
    before = measure_model(other, of_model("site-00"))
    path = owner.store.deployed
    model = read_model(path)
    changed = msgspec.structs.replace(
        model.card, network=msgspec.structs.replace(model.card.network, head=(8, 2))
    )
    tensors = dict(model.tensors)
    tensors["head.1.weight"], tensors["head.1.bias"] = torch.eye(2, 8), torch.zeros(2)
    tensors["head.out.weight"] = tensors["head.out.weight"][:, :2].contiguous()
    write_model(path, tensors, changed)
    assert measure_model(other, of_model("site-00")).metrics != before.metrics
