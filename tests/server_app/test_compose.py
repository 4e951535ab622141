"""Misspelled names are answered with the names that exist; paths must be absolute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedstrata.protocol.plan import Plan, plan_from_json
from fedstrata.support.errors import UserError
from models.groups import partition_tensors
from models.networks import OF_TOKENS, build
from server_app.compose import (
    CONF,
    _name_classes,
    compose,
    loaded,
    read_run_config,
    simulated_nodes,
)
from server_app.run import checked
from strategies.config import plan_for
from strategies.methods import METHODS, make_method
from tests.helpers.text_models import tiny_bert

NAMES = {
    group: sorted(p.stem for p in (CONF / group).glob("*.yaml"))
    for group in ("experiment", "method", "model")
}


@pytest.mark.parametrize("experiment", NAMES["experiment"])
def test_every_experiment_composes(experiment: str) -> None:
    config = compose(experiment, [])
    assert config.strategy.rounds > 0
    assert set(config.strategy.aggregators) == {"common", "task"}


@pytest.mark.parametrize("method", NAMES["method"])
def test_every_method_file_is_a_method(method: str) -> None:
    config = compose("faces_paper", [f"method={method}"])
    assert make_method(config.method).name == method
    assert set(METHODS) == set(NAMES["method"])


@pytest.mark.parametrize("model", NAMES["model"])
def test_every_model_file_builds(model: str, own_home: Path) -> None:
    options: dict[str, Any] = dict(compose("faces_paper", [f"model={model}"]).model)
    name = options.pop("name")
    if "folder" in options:
        tiny_bert(own_home / "models", ["word"], name=options["folder"])
    shape = (8,) if name in OF_TOKENS else (3, 64, 64)
    network = build(name, input_shape=shape, classes=2, **options)
    assert "head.out.weight" in network.state_dict()


@pytest.mark.parametrize("model", ["resnet18", "resnet34"])
def test_the_default_groups_cover_the_default_model_and_a_larger_one(model: str) -> None:
    config = compose("faces_paper", [f"model={model}"])
    options: dict[str, Any] = dict(config.model)
    network = build(options.pop("name"), input_shape=(3, 64, 64), classes=2, **options)
    division = partition_tensors(network, config.groups)
    assert all(division.names(group) for group in ("pretrained", "common", "task", "personal"))


@pytest.mark.parametrize(
    ("experiment", "overrides", "said"),
    [
        ("facez", [], ["facez", "faces", "har", "images", "medmnist"]),
        ("faces_paper", ["method=fedprxo"], ["fedprxo", "fedprox", "fedavg", "lg_fedavg"]),
        ("faces_paper", ["model=resnet19"], ["resnet19", "resnet18"]),
        ("faces_paper", ["groups=facez"], ["facez", "all_common"]),
        ("faces_paper", ["strategy.roundz=3"], ["roundz", "rounds", "deadline"]),
        ("faces_paper", ["train.optimizer.learning_rate=3"], ["learning_rate", "lr", "momentum"]),
        ("faces_paper", ["groups.personel=[head]"], ["personel", "personal"]),
        ("faces_paper", ["methd.mu=3"], ["methd", "method"]),
        ("faces_paper", ["train.epochs=three"], ["train.epochs", "three"]),
        ("faces_paper", ["train.epochs=null"], ["train.epochs or train.steps"]),
        ("faces_paper", ["train.batch_size=0"], ["train.batch_size", "greater than 0"]),
        ("faces_paper", ["train.optimizer.name=sgdd"], ["sgdd", "sgd, adam, adamw"]),
        (
            "faces_paper",
            ["train.optimizer.momentum=-0.1"],
            ["train.optimizer.momentum", "0 or greater"],
        ),
        (
            "faces_paper",
            ["train.optimizer.weight_decay=-1"],
            ["optimizer.weight_decay", "0 or greater"],
        ),
        (
            "faces_paper",
            ["strategy.give_up=inf"],
            ["strategy.give_up must be a finite number, got inf"],
        ),
        ("faces_paper", ["method=fedprox", "method.mu=nan"], ["method.mu must be a finite number"]),
        ("faces_paper", ["model.dropout=inf"], ["model.dropout must be a finite number"]),
        ("faces_paper", ["strategy.fraction=1.5"], ["strategy.fraction", "at most 1"]),
        ("faces_paper", ["weights=file"], ["weights.path"]),
        (
            "faces_paper",
            ["not an override"],
            ["not an override", "a value with spaces stands in quotes"],
        ),
        ("images", ["Data.size=64"], ["nearest: 'data'"]),
        ("images", ["data.manifest=C:\\a.csv"], ["path of Windows", "drive C: is /mnt/c in WSL"]),
        ("images", ["weights=file", 'weights.path="D:/w.npz"'], ["drive D: is /mnt/d in WSL"]),
        ("images", ["data_root=/Data"], ["data-root is no override", "fedstrata run data-root="]),
        ("images", ["weights=/Data/W.npz"], ["a file is weights=file weights.path=/Data/W.npz"]),
        ("images", ["data.manifest=a(1).csv"], ["in quotes, as in data.manifest='a(1).csv'"]),
    ],
)
def test_a_mistake_is_answered_with_what_exists(
    experiment: str, overrides: list[str], said: list[str]
) -> None:
    with pytest.raises(UserError) as raised:
        compose(experiment, overrides)
    for word in said:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "+strategy.minimum.personal=1",
            r"minimum\.personal: group 'personal' never leaves its site",
        ),
        ("+strategy.minimum.comon=2", r"minimum\.comon: group 'comon' does not exist.*'common'"),
        ("+aggregator@strategy.aggregators.pretrained=median", "group 'pretrained' never leaves"),
    ],
)
def test_a_setting_of_a_group_that_never_travels_is_refused(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        checked(compose("faces_paper", [override]))


@pytest.mark.parametrize("key", ["output-dir", "data-root"])
def test_a_relative_path_is_refused_with_the_reason(key: str) -> None:
    run_config = {"experiment": "har", key: "data/har"}
    with pytest.raises(UserError, match="the app does not run in the folder"):
        read_run_config(run_config)


@pytest.mark.parametrize("path", ["/Data/W (1).npz", "/Data/[x]=1.npz", "/data/ä(b).npz"])
def test_a_path_may_have_capital_letters_brackets_and_signs(path: str) -> None:
    assert compose("images", ["weights=file", f"weights.path={path}"]).weights["path"] == path


def test_run_config_reads_the_keys_of_the_readme() -> None:
    read = read_run_config(
        {
            "experiment": "har",
            "data-root": "/data/har",
            "output-dir": "/tmp/out",
            "overrides": "strategy.rounds=50 model.hidden=[128,64,32]",
            "resume": "latest",
        }
    )
    assert read.overrides == ("strategy.rounds=50", "model.hidden=[128,64,32]")
    assert read.output_dir == Path("/tmp/out")
    config = compose(read.experiment, read.overrides)
    assert config.strategy.rounds == 50
    assert list(config.model["hidden"]) == [128, 64, 32]


def test_a_plan_arrives_as_it_was_sent() -> None:
    plan = plan_for(compose("faces_paper", []), federation="faces-1", weights="ab")
    again = plan_from_json(plan.to_json())
    assert isinstance(again, Plan)
    assert again.to_json() == plan.to_json()
    for text in ("", "{", "[]", "null", '{"federation": 1}', "[" * 100_000):
        with pytest.raises(UserError):
            plan_from_json(text)


@pytest.mark.parametrize(
    ("rounds", "fraction", "expected"),
    [(4, 1.0, [1, 2, 3, 4]), (10, 0.5, [2, 4, 6, 8, 10]), (12, 0.25, [4, 8, 12]), (3, 0.1, [1])],
)
def test_a_site_alone_trains_as_often_as_it_is_asked(
    rounds: int, fraction: float, expected: list[int]
) -> None:
    overrides = [f"strategy.rounds={rounds}", f"strategy.fraction={fraction}"]
    plan = plan_for(compose("faces_paper", overrides), federation="f", weights="")
    assert plan.rounds_of_a_site() == expected


@pytest.mark.parametrize("hostile", [{"fraction": 0.0}, {"fraction": 2.0}, {"rounds": -1}])
def test_a_plan_with_impossible_rounds_is_refused(hostile: dict[str, float]) -> None:
    plan = plan_for(compose("faces_paper", []), federation="f", weights="")
    with pytest.raises(UserError, match="rounds"):
        plan_from_json(json.dumps(json.loads(plan.to_json()) | hostile))


@pytest.mark.parametrize(
    ("overrides", "nodes"), [([], 10), (["cohort.sites=4"], 3), (["simulation.sites=1"], 1)]
)
def test_a_simulation_has_a_node_for_each_site_or_cohort(overrides: list[str], nodes: int) -> None:
    assert simulated_nodes(loaded("faces", overrides)) == nodes


def test_the_number_of_simulated_sites_is_no_part_of_a_run() -> None:
    assert compose("faces", ["simulation.sites=3"]) == compose("faces", [])


@pytest.mark.parametrize("sites", ["0", "true", "many", "2.5"])
def test_a_number_of_sites_that_is_none_is_an_error(sites: str) -> None:
    with pytest.raises(UserError, match=r"simulation\.sites="):
        simulated_nodes(loaded("faces", [f"simulation.sites={sites}"]))


def test_decimals_in_a_file_that_could_have_been_written_otherwise_ask_for_quotes() -> None:
    with pytest.raises(UserError, match=r'in quotes, as in data\.classes=\{dose:\["0\.5"\]\}'):
        _name_classes({"classes": {"dose": [0.50, 1.0]}})
    data = {"classes": {"dose": ["0.50", 1]}}
    _name_classes(data)
    assert data["classes"]["dose"] == ["0.50", "1"]
