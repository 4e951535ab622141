"""What holds for every method: resumed, in cohorts, written to a file, and switched off.

The runs have a frozen prefix whose outputs are cached, two tasks with groups of all four kinds, half of
the sites in each round, and fine-tuning at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flwr.app import Message
from torch import Tensor

from client_app.context import open_site
from client_app.node_config import read_node_settings
from client_app.store import DiskStore
from fedstrata.protocol import kinds, orders
from fedstrata.protocol.plan import plan_from_json
from models import weights
from models.model_file import network_of, read_model
from models.networks import build
from models.training.metrics import logits_of
from server_app import run as run_module
from strategies.methods import METHODS
from tests.helpers.runs import SMALL, Crash, same, states
from tests.helpers.source import ROOT
from tests.loopback import LoopbackGrid, Tamper, simulate

ROUNDS = 3  # of half of the sites: one of each task takes part twice
SHAPE: dict[str, Any] = {"hidden": [12, 8], "head": [6]}
OVERRIDES = [
    *SMALL,
    "data.size=12",
    "model=mlp_bn",
    "model.hidden=[12,8]",
    "model.head=[6]",
    "groups.pretrained=[fc1,bn1]",
    "groups.common=['...']",
    "groups.task=[head.0]",
    "groups.personal=[head.out]",
    f"strategy.rounds={ROUNDS}",
    "strategy.fraction=0.5",
    "deployment.epochs=1",
    "train.feature_dtype=float32",
]
OFF: dict[str, tuple[list[str], list[str]]] = {
    "apfl": (["method.alpha=0", "method.adaptive=false"], ["method=fedavg"]),
    "dbe": (["method.kappa=0", "method.vector=false"], ["method=fedavg"]),
    "ditto": (["method.pull=0"], []),  # a model beside: see test_ditto.py
    "fd": (["method.weight=0"], ["method=local"]),
    "fedala": (["method.rate=0"], ["method=layers"]),
    "fedcp": (
        ["method.weight=0", "method.policy=false"],
        ["method=layers", "groups.task=[head.out]", "groups.personal=[]"],
    ),
    "fedgen": (
        ["method.weight=0"],
        ["method=layers", "groups.common=[]", "groups.task=[head.out]", "groups.personal=['...']"],
    ),
    "fedgh": (["method.steps=0"], ["method=local"]),
    "fedktl": (["method.weight=0", "method.etf=false"], ["method=local"]),
    "fedproto": (["method.weight=0"], ["method=local"]),
    "fedkd": (
        ["method.distillation=0", "method.hidden=0"],
        ["method=local", "train.cache_features=false"],  # its shared network sees the inputs
    ),
    "fedprox": (["method.mu=0"], ["method=layers"]),
    "fedtgp": (["method.weight=0"], ["method=local"]),
    "fml": (
        ["method.alpha=1", "method.beta=1"],
        ["method=local", "train.cache_features=false"],  # its shared network sees the inputs
    ),
    "gpfl": (["method.conditions=false"], ["method=fedper", "method.personal=[head.out]"]),
    "moon": (["method.mu=0"], ["method=layers"]),
    "per_fedavg": (["method.alpha=0"], ["method=layers"]),
}
"""What switches a method off, and what is then the same, where whole runs can be compared."""
TWO_LOSSES = {"fedkd", "fml"}  # report the sum of two networks' losses, switched off or not
VARIANTS = {"fedprox, adaptive": ["method=fedprox", "method.adapt=true"]}
"""What a method is with other values, where that is another exchange or another memory."""
SUMS = {"fedgen": ["method=fedgen", "method.each_site=false"]}
"""What a method is whose own values need single updates, where nodes send sums."""
OF_EACH = {"fedtgp"}
"""Methods whose server needs each site's own update: no cohorts."""
WAYS = [
    f"strategy.{way}.{group}" for way in ("coding", "coding_down") for group in ("common", "task")
]
IN_COHORTS = {"fedkd": [f"{way}=exact" for way in WAYS]}  # sums travel exactly
ALONE = {name: [f"method={name}", *IN_COHORTS.get(name, [])] for name in METHODS}
EVERY = {**ALONE, **VARIANTS, **SUMS}
ALWAYS_ON = {"fedavg", "fedbn", "fedper", "fedrep", "layers", "lg_fedavg", "local", "scaffold"}


class Played:
    """A finished run: its results, what the server learned, and what each site keeps."""

    def __init__(self, folder: Path, results: dict[str, Any], grid: LoopbackGrid) -> None:
        self.folder, self.results, self.grid = folder, results, grid

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of server and sites by name."""
        found = dict(states(self.folder, self.results["run"]))
        for site in self.results["sites"]:
            store = DiskStore(self.folder, self.results["federation"], site)
            kept = store.before(len(self.results["rounds"]) + 1)
            if kept is not None:
                found |= {f"{site}/{name}": tensor for name, tensor in kept.flat().items()}
        return found

    def measures(self) -> Any:
        """Return what was measured, and who took part."""
        records = [
            {key: each[key] for key in ("participants", "sites", "tasks", "refused")}
            for each in self.results["rounds"]
        ]
        parts = [records, self.results["final"], self.results["deployment"]]
        return without(parts, "seconds")


def without(value: Any, *keys: str) -> Any:
    if isinstance(value, dict):
        return {k: without(v, *keys) for k, v in value.items() if k not in keys}
    return [without(each, *keys) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the overrides for start weights, with which layers can be frozen."""
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    torch.manual_seed(5)
    network = build("mlp_bn", input_shape=(3, 12, 12), classes=2, **SHAPE)
    weights.save(path, network.state_dict(), {})
    return ["weights=file", f"weights.path={path}"]


Play = Callable[..., Played]


@pytest.fixture(scope="module")
def play(start: list[str], tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Return what plays a run of four sites; one with a node for each site is played once."""
    played: dict[tuple[str, ...], Played] = {}

    def run(
        *chosen: str,
        folder: Path | None = None,
        nodes: int = 4,
        tamper: Tamper | None = None,
        **more: Any,
    ) -> Played:
        if folder is None and chosen in played:
            return played[chosen]
        output = folder or tmp_path_factory.mktemp("run")
        grid = LoopbackGrid(
            {100 + i: {"partition-id": i, "num-partitions": nodes} for i in range(nodes)},
            {"output-dir": str(output)},
        )
        if tamper:
            grid.tamper = tamper
        cohorts = [f"cohort.sites={4 // nodes}", "cohort.batched=false"]
        results, _ = simulate(
            output, "faces", [*OVERRIDES, *start, *cohorts, *chosen], grid=grid, **more
        )
        made = Played(output, results, grid)
        if folder is None:
            played[chosen] = made
        return made

    return run


def dies_in_the_last_round(message: Message, reply: Message) -> Message:
    if (message.metadata.message_type, message.metadata.group_id) == (kinds.TRAIN, str(ROUNDS)):
        raise Crash
    return reply


@pytest.mark.parametrize("method", EVERY)
def test_broken_off_in_cohorts_and_resumed_by_nodes_a_run_ends_with_the_same_bits(
    play: Play, method: str, tmp_path: Path
) -> None:
    whole = play(*EVERY[method])
    assert whole.tensors()
    nodes = 4 if method in OF_EACH else 2
    with pytest.raises(Crash):
        play(*EVERY[method], folder=tmp_path, nodes=nodes, tamper=dies_in_the_last_round)
    resumed = play(*EVERY[method], folder=tmp_path, resume="latest")
    assert same(whole.tensors(), resumed.tensors())
    assert resumed.measures() == whole.measures()


@pytest.mark.parametrize("method", EVERY)
def test_what_is_trained_does_not_depend_on_how_often_it_is_evaluated(
    play: Play, method: str
) -> None:
    each = play(*EVERY[method])
    nodes = 4 if method in OF_EACH else 2
    seldom = play(*EVERY[method], "strategy.evaluate_every=2", nodes=nodes)
    assert same(each.tensors(), seldom.tensors())
    first, second, third = seldom.measures()[0]
    assert [first, third] == each.measures()[0][::2]
    assert second == {**each.measures()[0][1], "tasks": {}, "sites": unmeasured(each)}
    assert seldom.measures()[1:] == each.measures()[1:]


@pytest.mark.long
@pytest.mark.parametrize("method", EVERY)
def test_killed_between_two_checkpoints_and_resumed_a_run_ends_with_the_same_bits(
    play: Play, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_in_round_4(message: Message, reply: Message) -> Message:
        if (message.metadata.message_type, message.metadata.group_id) == (kinds.TRAIN, "4"):
            raise Crash
        return reply

    monkeypatch.setattr(
        run_module, "saved_where_it_ends", lambda *_: nullcontext()
    )  # as by SIGKILL
    chosen = [*EVERY[method], "strategy.rounds=5"]
    every = [*chosen, "strategy.checkpoint_every=2", "strategy.evaluate_every=3"]
    whole = play(*chosen)
    nodes = 4 if method in OF_EACH else 2
    with pytest.raises(Crash):
        play(*every, folder=tmp_path, nodes=nodes, tamper=dies_in_round_4)
    resumed = play(*every, folder=tmp_path, resume="latest")
    assert same(whole.tensors(), resumed.tensors())
    assert not list(tmp_path.glob("**/set-aside/0*"))


def unmeasured(made: Played) -> Any:
    """Return the sites of round 2 as they are where it was not evaluated."""
    kept = ("task", "kind", "train_examples", "train_loss", "steps", "planned_steps", "numerics")
    sites = made.measures()[0][1]["sites"]
    return {
        name: {key: site[key] for key in (*kept, "owed") if key in site}
        for name, site in sites.items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_model_that_a_site_writes_predicts_as_it_was_measured(play: Play, method: str) -> None:
    made = play(f"method={method}")
    plan = plan_from_json(orders.read_order(made.grid.sent[-1])[0])
    context = open_site(read_node_settings(made.grid.nodes[100], made.grid.run_config), plan)
    model = read_model(context.store.deployed)
    if not model.card.predicts_alone:
        return
    test = context.data.test
    network = network_of(model)
    device = torch.device("cpu")
    outputs = logits_of(network, test.inputs, batch_size=8, device=device, autocast=False)
    loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(test.labels))
    expected = made.results["deployment"]["sites"][context.data.site]["after"]["loss"]
    assert float(loss) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", [name for name in OFF if OFF[name][1]])
def test_switched_off_a_method_is_another_and_by_default_it_is_not(play: Play, method: str) -> None:
    switches, baseline = OFF[method]
    off = play(f"method={method}", *switches)
    other, on = play(*baseline), play(f"method={method}")
    assert same(layers_of(off), layers_of(other))
    ignored = ("train_loss", "owed") if method in TWO_LOSSES else ()
    assert without(off.measures(), *ignored) == without(other.measures(), *ignored)
    assert not same(layers_of(on), layers_of(other))


def layers_of(made: Played) -> dict[str, Tensor]:
    """Return the layers: what a method keeps or sends besides may be there when it is off."""
    besides = ("/memory/", "extras", "optimizer/learned_prototypes/")
    return {n: t for n, t in made.tensors().items() if not any(each in n for each in besides)}


@pytest.mark.parametrize("method", METHODS)
def test_no_value_in_a_file_of_conf_switches_its_method_off(method: str) -> None:
    values = yaml.safe_load((ROOT / "conf" / "method" / f"{method}.yaml").read_text())
    assert values["name"] == method
    if method in ALWAYS_ON:
        return
    switches, _ = OFF[method]  # a new method says what switches it off, or that nothing does
    off = dict(each.removeprefix("method.").split("=") for each in switches)
    assert set(off) <= set(values)
    assert any(yaml.safe_load(text) != values[key] for key, text in off.items())
