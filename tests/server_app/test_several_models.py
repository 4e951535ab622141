"""Runs whose sites have different networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from client_app import tuning
from client_app.store import DiskStore
from fedstrata.support.errors import UserError
from models import weights
from models.model_file import read_model
from models.networks import build
from server_app import start_weights
from tests.helpers.runs import SMALL, Crash, grid_of, same, states, without_times
from tests.loopback import simulate

ONE_TASK = [*SMALL, "data.tasks=[gender]"]
HEADS = ["method=lg_fedavg", "method.common=[head.out]"]
MLPS = [
    "+model@models.a=mlp",
    "models.a.hidden=[8,6]",
    "+model@models.b=mlp",
    "models.b.hidden=[5]",
]
TWO = ["+model@models.big=mlp", "+model@models.edge=small_cnn"]


def played(output: Path, *overrides: str, sites: int = 4) -> dict[str, Any]:
    return simulate(output, "faces", [*ONE_TASK, *overrides], sites=sites)[0]


def test_sites_with_different_bodies_average_a_head(tmp_path: Path) -> None:
    results = played(tmp_path, *HEADS, *TWO)
    models = {name: site["model"] for name, site in results["sites"].items()}
    assert models == {f"site-0{n}": ("big", "edge")[n % 2] for n in range(4)}
    assert results["rounds"][-1]["participants"] == list(models)
    shared = states(tmp_path, results["run"])
    assert {name.rpartition("//")[2] for name in shared} == {"head.out.weight", "head.out.bias"}
    rows = {
        variant: {row["group"]: row["tensors"] for row in of_it}
        for variant, of_it in results["partition"].items()
    }
    assert rows.keys() == {"gender/big", "gender/edge"}
    assert rows["gender/big"]["common"] == rows["gender/edge"]["common"] == 2
    assert rows["gender/big"]["personal"] != rows["gender/edge"]["personal"]


@pytest.mark.parametrize(
    ("method", "made"), [("fedgh", "global_head"), ("fedgen", "generator"), ("fedktl", "pictures")]
)
def test_a_server_that_learns_teaches_sites_with_different_networks(
    tmp_path: Path, method: str, made: str
) -> None:
    results = played(tmp_path, f"method={method}", *TWO, sites=2)
    assert {site["model"] for site in results["sites"].values()} == {"big", "edge"}
    assert [record["kept"] for record in results["rounds"]] == [{}, {}]
    assert all(len(record["participants"]) == 2 for record in results["rounds"])
    assert results["rounds"][1]["bytes_down"][made] > 0


@pytest.mark.parametrize("method", [HEADS, ["method=local"]], ids=["lg_fedavg", "local"])
def test_one_network_under_two_names_is_one_network(tmp_path: Path, method: list[str]) -> None:
    alike = ["+model@models.a=mlp", "+model@models.b=mlp", "model=mlp"]
    one = played(tmp_path / "one", *method, "model=mlp")
    two = played(tmp_path / "two", *method, *alike)
    assert same(states(tmp_path / "one", one["run"]), states(tmp_path / "two", two["run"]))
    for key in ("rounds", "final", "best"):
        assert without_times(one[key]) == without_times(two[key])


@pytest.mark.parametrize("method", ["fedproto", "fedtgp", "fedgh", "fd"])
def test_class_means_and_logits_go_between_different_bodies(tmp_path: Path, method: str) -> None:
    same_width = ["models.big.head=[6]", "models.edge.head=[6]"] if method != "fd" else []
    results = played(tmp_path, f"method={method}", *TWO, *same_width)
    assert {site["model"] for site in results["sites"].values()} == {"big", "edge"}
    last = results["rounds"][-1]
    assert last["participants"] == [f"site-0{n}" for n in range(4)]
    assert set(last["bytes_up"]) == {"logits" if method == "fd" else "prototypes"}
    assert all(values == {} for values in (last["kept"], last["refused"]))
    found = states(tmp_path, results["run"])
    # Of all sites of the task, whatever their network is.
    assert {name.split("/")[2] for name in found if name.startswith("state/")} == {"gender"}


def test_a_feature_width_that_differs_is_said_with_how_to_mend_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as said:
        played(tmp_path, "method=fedproto", *TWO, "models.big.head=[6]", "models.edge.head=[7]")
    text = str(said.value)
    assert "what model 'edge' exchanges in group 'prototypes' does not agree" in text
    assert "extras.sums is float32[2, 6] there and float32[2, 7] here" in text
    assert "model.head=[64] gives all of them the same width of features, on which" in text


def test_what_does_not_agree_is_said_by_tensor_before_anything_is_trained(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    with pytest.raises(UserError) as said:
        simulate(tmp_path, "faces", [*ONE_TASK, *TWO, "method=lg_fedavg"], grid=grid)
    text = str(said.value)
    assert "site-01, site-03: what model 'edge' exchanges in group 'common' does not agree" in text
    assert "head.0.weight is float32[8, 32] there and float32[8, 256] here" in text
    assert "exchange it alone (method.common=[head.out]" in text
    assert {message.metadata.message_type for message in grid.sent} == {"query"}


def test_cohorts_of_two_models_are_nodes_of_one_site_bit_for_bit(tmp_path: Path) -> None:
    tiny = [*HEADS, *MLPS, "data.models=[b,a,a]"]
    alone = played(tmp_path / "alone", *tiny, "keep_models=none", sites=6)
    for batched in ("false", "true"):
        output = tmp_path / batched
        many = ["cohort.sites=3", f"cohort.batched={batched}"]
        cohorts = played(output, *tiny, *many, sites=2)
        assert {n: site["model"] for n, site in cohorts["sites"].items()} == {
            n: site["model"] for n, site in alone["sites"].items()
        }
        trained = cohorts["rounds"][0]["sites"].values()
        together = {site["numerics"]["batched_sites"] for site in trained}
        assert together == ({1} if batched == "false" else {1, 2})  # those of one network
        expected, found = states(tmp_path / "alone", alone["run"]), states(output, cohorts["run"])
        if batched == "false":
            assert same(expected, found)
            assert without_times(cohorts["final"]) == without_times(alone["final"])
        for name, tensor in expected.items():
            assert (tensor - found[name]).abs().max() < 1e-5


def test_each_model_is_compared_with_itself_alone_and_in_one_place(tmp_path: Path) -> None:
    both = ["baselines.alone=true", "baselines.pooled=true", "baselines.reuse=false"]
    results = played(tmp_path, *HEADS, *MLPS, *both, "deployment.epochs=1", "data.test=40")
    sites = results["final"]["sites"]
    assert all(site["alone"] and site["pooled"] for site in sites.values())
    assert all(each["after"] for each in results["deployment"]["sites"].values())
    models = sorted(path.name for path in (tmp_path / results["run"] / "models").iterdir())
    assert models == ["gender@a.safetensors", "gender@b.safetensors"]
    cards = {
        path.stem: read_model(path).card for path in (tmp_path / results["run"]).glob("models/*")
    }
    assert cards["gender@b"].network.options["hidden"] == (5,)
    assert len(cards["gender@b"].metrics) == 2


def test_a_resumed_run_ends_as_if_it_had_gone_on_and_other_models_are_refused(
    tmp_path: Path,
) -> None:
    whole = played(tmp_path / "whole", *HEADS, *MLPS, "strategy.rounds=3")

    def crash(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train" and message.metadata.group_id == "3":
            raise Crash
        return reply

    wanted = [*ONE_TASK, *HEADS, *MLPS, "strategy.rounds=3"]
    output = tmp_path / "cut"
    with pytest.raises(Crash):
        simulate(output, "faces", wanted, sites=4, tamper=crash)
    (cut,) = output.glob("*/run.json")
    with pytest.raises(UserError, match=r"models\.b\.hidden: was .*5.*, now .*6"):
        simulate(output, "faces", [*wanted, "models.b.hidden=[6]"], resume=cut.parent.name)
    resumed, _ = simulate(output, "faces", wanted, sites=4, resume=cut.parent.name)
    assert same(states(tmp_path / "whole", whole["run"]), states(output, resumed["run"]))
    assert without_times(resumed["final"]) == without_times(whole["final"])
    # A site whose own model has changed since has personal layers of another one.
    store = DiskStore(output, resumed["federation"], "site-01")
    with pytest.raises(UserError, match=r"began the run with the model 'b'.* is now 'a'"):
        store.check_model("a")
    store.check_model("b")


@pytest.mark.parametrize("method", ["fd", "fedproto", "fedtgp", "fedgh", "fedgen", "fml", "fedkd"])
def test_methods_for_different_networks_take_all_sites(tmp_path: Path, method: str) -> None:
    results = played(tmp_path, f"method={method}", *MLPS, "keep_models=none")
    for record in results["rounds"]:
        assert record["refused"] == {}
        assert len(record["participants"]) == 4
    assert all(site["accuracy"] is not None for site in results["final"]["sites"].values())


def test_groups_of_one_layer_go_with_any_body_as_the_error_says(tmp_path: Path) -> None:
    mended = ["groups.common=[head.out]", "groups.task=[]", "groups.personal=['...']"]
    results = played(tmp_path, "method=layers", *mended, *MLPS, "strategy.rounds=1")
    assert results["rounds"][0]["refused"] == {}


def test_each_model_has_start_weights_of_its_own_which_its_sites_get(tmp_path: Path) -> None:
    files, chosen = {}, []
    for name, hidden in (("a", [8, 6]), ("b", [5])):
        files[name] = build("mlp", input_shape=(3, 28, 28), classes=2, head=[8], hidden=hidden)
        path = tmp_path / f"{name}.safetensors"
        weights.save(path, dict(files[name].state_dict()), {})
        chosen += [f"+weights@models.{name}.weights=file", f"models.{name}.weights.path={path}"]
    frozen = ["groups.pretrained=[fc1]", "groups.common=[head.out]", "groups.task=[]"]
    run = ["method=layers", *frozen, "groups.personal=['...']", *MLPS, *chosen]
    results = played(tmp_path / "nodes", *run)
    assert {n: start["source"] for n, start in results["starts"].items()} == {
        name: str(tmp_path / f"{name}.safetensors") for name in files
    }
    assert results["weights"] is None
    for site, entry in results["sites"].items():
        folder = tmp_path / "nodes" / results["federation"] / "sites" / site
        kept = read_model(folder / "models" / "last.safetensors")
        mine = files[entry["model"]].state_dict()["fc1.weight"]
        assert torch.equal(kept.tensors["fc1.weight"], mine)
        assert kept.card.start is not None
        assert kept.card.start.content_hash == results["starts"][entry["model"]]["content_hash"]
    cohorts = played(tmp_path / "cohorts", *run, "cohort.sites=2", "cohort.batched=false", sites=2)
    assert cohorts["starts"] == results["starts"]
    expected = states(tmp_path / "nodes", results["run"])
    assert same(expected, states(tmp_path / "cohorts", cohorts["run"]))
    # Without one, a frozen layer would be random: that model is named.
    with pytest.raises(UserError, match=r"model 'b': groups\.pretrained freezes 2 tensors"):
        played(tmp_path / "none", *run[:-2], "weights=none")


def test_weights_that_do_not_go_with_a_network_name_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model a: .*\+weights@models\.a\.weights=none"):
        played(tmp_path, *HEADS, *MLPS, "weights=packaged")


def test_newcomers_crossing_and_tuning_are_of_each_network(tmp_path: Path) -> None:
    later = ["deployment.epochs=1", "deployment.newcomers=[site-05]", "cross_site=models"]
    results = played(tmp_path, *HEADS, *MLPS, *later, "strategy.rounds=1", sites=6)
    assert set(results["deployment"]["newcomers"]) == {"site-05"}
    # Also sites with another network measure a model, as its file says what it is.
    crossed = results["cross_site"]["tasks"]["gender"]["models"]
    sites = [f"site-0{n}" for n in range(6)]
    assert {name: sorted(on) for name, on in crossed.items()} == dict.fromkeys(sites, sites)
    assert results["cross_site"]["missing"] == []
    public = read_model(tmp_path / results["run"] / "models" / "gender@b.safetensors")
    here = {"site": "site-05", "partition-id": 5, "num-partitions": 6, "model": "b"}
    here |= {"state-dir": str(tmp_path / "state"), "cache-dir": str(tmp_path / "cache")}
    made = tuning.tune(
        public, tuning.node_of(public.card, here), tuning.plan_of(public.card, []), ()
    )
    entry = results["deployment"]["newcomers"]["site-05"]
    for name in ("accuracy", "loss"):
        assert made.report.before["test"][name] == pytest.approx(entry["before"][name], abs=1e-6)


def start_of(output: Path, results: dict[str, Any], site: str) -> dict[str, torch.Tensor]:
    """Return the model that a site kept after the last round."""
    folder = output / results["federation"] / "sites" / site / "models"
    return dict(read_model(folder / "last.safetensors").tensors)


def test_a_model_with_published_weights_and_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    published = squeezenet1_1().state_dict()
    asked: list[SqueezeNet1_1_Weights] = []

    def fetch(self: SqueezeNet1_1_Weights, **options: object) -> dict[str, torch.Tensor]:
        asked.append(self)
        return published

    monkeypatch.setattr(SqueezeNet1_1_Weights, "get_state_dict", fetch)
    run = [
        *("method=layers", "groups.common=[head.out]", "groups.task=[]", "groups.personal=['...']"),
        *("groups.pretrained=[]", "strategy.rounds=1"),
        "+model@models.big=squeezenet1_1",
        "+weights@models.big.weights=torchvision",
        *("+model@models.edge=mlp", "models.edge.hidden=[4]"),
    ]
    named = "models.big.weights.name=SqueezeNet1_1_Weights.IMAGENET1K_V1"
    results = played(tmp_path, *run, named, "train.optimizer.lr=1e-9", sites=2)
    assert set(asked) == {SqueezeNet1_1_Weights.IMAGENET1K_V1}
    assert {name: start["source"] for name, start in results["starts"].items()} == {
        "big": "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    }
    kept = start_of(tmp_path, results, "site-00")
    assert torch.allclose(kept["features.0.weight"], published["features.0.weight"], atol=1e-5)
    # The default is ResNet-18's: the error says of which model, and what there is.
    with pytest.raises(
        UserError, match=r"model big: squeezenet1_1 has no .*models\.big\.weights=none"
    ):
        played(tmp_path / "other", *run, sites=2)


def test_models_pretrain_by_themselves_and_equal_ones_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[str] = []

    def pretrain(settings: Any, model: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        jobs.append(model["name"])
        torch.manual_seed(len(jobs))
        rest = {key: value for key, value in model.items() if key not in ("name", "head")}
        network = build(str(model["name"]), input_shape=(3, 28, 28), classes=2, head=[], **rest)
        body = network.state_dict().items()
        return {name: tensor for name, tensor in body if not name.startswith("head.")}

    monkeypatch.setattr(start_weights, "pretrain", pretrain)
    frozen = ["groups.pretrained=[first:2]", "groups.common=[head.out]", "groups.task=[]"]
    run = [
        *("method=layers", *frozen, "groups.personal=['...']", "weights=central"),
        *("+model@models.one=small_cnn", "+model@models.two=small_cnn"),
        *("+model@models.tiny=mlp", "models.tiny.hidden=[4]", "strategy.rounds=1"),
    ]
    results = played(tmp_path, *run, sites=3)
    assert jobs == ["small_cnn", "mlp"]
    starts = {name: start["content_hash"] for name, start in results["starts"].items()}
    assert starts["one"] == starts["two"] != starts["tiny"]
    first = start_of(tmp_path, results, "site-00")["conv1.weight"]
    assert torch.equal(first, start_of(tmp_path, results, "site-02")["conv1.weight"])
    again = played(tmp_path, *run, sites=3)  # found by what decided them
    assert jobs == ["small_cnn", "mlp"]
    assert again["starts"] == results["starts"]
