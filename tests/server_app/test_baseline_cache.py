"""What sites reached alone is used again: to the bit, and only where all that decides it is equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.superlink.grid.grpc_grid import GrpcGrid
from hypothesis import given, settings

from fedstrata.protocol.data_description import DataDescription
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.plan import Plan
from fedstrata.protocol.progress import read_progress
from fedstrata.support import checksums
from server_app import baseline_cache
from server_app.baseline_cache import ALONE, POOLED, BaselineCache, baselines_of, reused_lines
from server_app.sites.members import Member
from strategies.config import BaselinesConfig
from tests.helpers.members import member, round_report
from tests.helpers.plans import plan_of
from tests.helpers.reports import json_values
from tests.helpers.runs import SMALL, grid_of, without_times
from tests.loopback import simulate

PLAN = plan_of("faces")
MEASURED = round_report()
NUMERICS = MEASURED.numerics


def site(name: str = "north", digest: str = "ab" * 32, **changes: Any) -> Member:
    return member(name, data=DataDescription(digest=digest), **changes)


def cache_of(
    folder: Path, plan: Plan = PLAN, *everyone: Member, said: list[str] | None = None
) -> Any:
    log = [] if said is None else said
    return BaselineCache(folder, "march", plan, everyone, log.append)


# -- a run -----------------------------------------------------------------------------------------


def orders(grid: Any) -> list[str]:
    return [message.metadata.message_type for message in grid.sent]


def test_what_was_trained_before_is_reused_to_the_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flwr")
    both = [*SMALL, "strategy.rounds=2", "baselines.alone=true", "baselines.pooled=true"]

    def played(name: str, *more: str) -> tuple[dict[str, Any], list[str]]:
        results, grid = simulate(
            tmp_path, "faces", [*both, *more], name=name, grid=grid_of(tmp_path, sites=2)
        )
        return results, orders(grid)

    first, _ = played("first")
    assert first["final"]["reused"] == {"alone": {}, "pooled": {}}
    again, asked = played("again")
    from_first = {"site-00": "first", "site-01": "first"}
    assert again["final"]["reused"] == {"alone": from_first, "pooled": from_first}
    assert again["best"]["reused"] == again["final"]["reused"]
    assert not {"train.alone", "train.pooled"} & set(asked)
    assert "alone: reused from first for 2 of 2 sites" in caplog.text
    assert without_times(again) == without_times(first)
    lines = [line for line in caplog.messages if line.startswith("round 1/2")]
    assert ["over alone" in line for line in lines] == [False, True]  # known from round 1 on
    alone = read_progress(tmp_path / "again")
    assert alone is not None
    assert alone.alone == {
        name: site["alone_accuracy"] for name, site in again["final"]["sites"].items()
    }

    other, asked = played("other", "method=fedper")
    assert other["final"]["reused"] == {"alone": from_first, "pooled": {}}
    assert "train.pooled" in asked
    anew, asked = played("anew", "method=fedper", "baselines.reuse=false")
    assert {"train.alone", "train.pooled"} <= set(asked)
    assert anew["final"]["reused"] == {"alone": {}, "pooled": {}}
    for name, own in anew["final"]["sites"].items():
        assert own["alone"] == other["final"]["sites"][name]["alone"]


def test_a_deployment_reuses_nothing() -> None:
    def of(grid: object, *, reuse: bool) -> Any:
        config = BaselinesConfig(alone=True, pooled=False, reuse=reuse)
        roster: Any = SimpleNamespace(grid=grid, everyone={})
        return baselines_of(config, 1, roster, PLAN, "march", print).cache

    simulation = SimpleNamespace(get_node_ids=lambda: [1, 2])
    assert of(simulation, reuse=True) is not None
    assert of(simulation, reuse=False) is None
    assert of(GrpcGrid.__new__(GrpcGrid), reuse=True) is None


# -- what decides ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        replace(PLAN, seed=7),
        replace(PLAN, rounds=3),
        replace(PLAN, fraction=0.5),
        replace(PLAN, model={**PLAN.model, "head": [4]}),
        replace(PLAN, weights="ab" * 32),
        replace(PLAN, data={**PLAN.data, "size": 28}),
        replace(PLAN, agreed={"targets": {}}),
        replace(PLAN, train=replace(PLAN.train, threads=2)),
        replace(PLAN, groups={**PLAN.groups, "pretrained": ["conv1"]}),
    ],
)
def test_another_plan_is_another_result(changed: Plan, tmp_path: Path) -> None:
    keys = [cache_of(tmp_path, plan).key(ALONE, site(), NUMERICS, 3) for plan in (PLAN, changed)]
    assert keys[0] != keys[1]


def test_method_groups_and_codings_decide_nothing_of_a_site_alone(tmp_path: Path) -> None:
    other = replace(
        PLAN,
        federation="april",
        method={"name": "fedprox", "mu": 1.0},
        groups={"pretrained": PLAN.groups.get("pretrained", []), "personal": ["..."]},
        coding={"common": {"name": "int8", "per_channel": True}},
    )
    site_alone = [
        cache_of(tmp_path, plan).key(ALONE, site(), NUMERICS, 3) for plan in (PLAN, other)
    ]
    assert site_alone[0] == site_alone[1]
    caches = [cache_of(tmp_path, plan, site()) for plan in (PLAN, other)]
    pooled = [cache.key(POOLED, site(), NUMERICS, 3) for cache in caches]
    assert pooled[0] != pooled[1]


def test_data_and_what_a_site_computes_with_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(tmp_path)
    keys = {
        cache.key(ALONE, site(), NUMERICS, 3),
        cache.key(ALONE, site(digest="cd" * 32), NUMERICS, 3),
        cache.key(ALONE, site("south"), NUMERICS, 3),
        cache.key(ALONE, site(), NUMERICS, 2),
        cache.key(ALONE, site(device="cuda:0"), NUMERICS, 3),
        cache.key(ALONE, site(), Numerics(2), 3),
    }
    for name in ("code_digest", "processor"):
        with monkeypatch.context() as patch:
            patch.setattr(baseline_cache, name, lambda: "another")
            keys.add(cache.key(ALONE, site(), NUMERICS, 3))
    assert len(keys) == 8


def test_what_builds_a_network_of_a_folder_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_cache, "default_models_dir", lambda: tmp_path)
    monkeypatch.setattr(baseline_cache, "version", lambda package: "5.0")
    folder = tmp_path / "bert"
    plan = replace(PLAN, model={**PLAN.model, "folder": "bert"})
    keys = [cache_of(tmp_path, plan).key(ALONE, site(), NUMERICS, 3)]
    folder.mkdir()
    for described in ('{"num_attention_heads": 2}', '{"num_attention_heads": 4}'):
        (folder / "config.json").write_text(described)
        keys.append(cache_of(tmp_path, plan).key(ALONE, site(), NUMERICS, 3))
    monkeypatch.setattr(baseline_cache, "version", lambda package: "5.1")
    keys.append(cache_of(tmp_path, plan).key(ALONE, site(), NUMERICS, 3))
    assert keys[0] == ""  # there is no folder
    assert len(set(keys)) == 4


def test_where_something_is_not_known_there_is_no_key(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, PLAN, site(), site("south", digest=""))
    assert cache.key(ALONE, member(), NUMERICS, 3) == ""
    assert cache.key(ALONE, site(), None, 3) == ""
    assert cache.key(POOLED, site(), NUMERICS, 3) == ""
    assert cache_of(tmp_path).key(POOLED, site(), NUMERICS, 3) == ""
    alone, both = cache_of(tmp_path, PLAN, site()), cache_of(tmp_path, PLAN, site(), site("south"))
    assert alone.key(POOLED, site(), NUMERICS, 3) != both.key(POOLED, site(), NUMERICS, 3)


# -- the files -------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written_and_is_the_owners(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "new")
    assert cache.read("key", site(), 3) is None
    cache.write("key", MEASURED)
    (path,) = (tmp_path / "new").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    found = cache.read("key", site(), 3)
    assert (found.run, found.report.metrics) == ("march", MEASURED.metrics)
    assert found.report.numerics == MEASURED.numerics


OTHER_KIND = {"test": {"examples": 4.0, "loss": 0.5, "mae": 1.0, "rmse": 1.0, "r2": 0.1}}


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "../march"},
        {"run": 7},
        {"metrics": {}},
        {"metrics": []},
        {"metrics": {"test": 3}},
        {"metrics": {"test": {"examples": 4.0, "loss": 0.5}}},
        {"metrics": OTHER_KIND},
        {"numerics": {"threads": 0}},
        {"numerics": {"cores": 2}},
    ],
)
def test_a_file_that_no_run_wrote_is_not_used_and_named(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    said: list[str] = []
    cache = cache_of(tmp_path, said=said)
    cache.write("key", MEASURED)
    content = checksums.checked(json.loads((tmp_path / "key.json").read_text())) | changed
    (tmp_path / "key.json").write_text(json.dumps(checksums.with_checksum(content)))
    assert cache.read("key", site(), 3) is None
    assert "key.json is not used, and its site is trained anew: " in said[0]


@settings(max_examples=10)
@given(json_values)
def test_any_file_is_used_or_named(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    said: list[str] = []
    folder = tmp_path_factory.mktemp("cache")
    (folder / "key.json").write_text(json.dumps(value))
    assert cache_of(folder, said=said).read("key", site(), 3) is None
    assert len(said) == 1


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    cache_of(tmp_path / "file", said=said).write("key", MEASURED)
    assert "not kept for later runs" in said[0]


def test_the_log_names_the_runs() -> None:
    lines = reused_lines("alone", {"a": "march", "b": "april", "c": "march"}, 4)
    assert [line.partition(" (")[0] for line in lines] == [
        "alone: reused from march for 2 of 4 sites",
        "alone: reused from april for 1 of 4 sites",
    ]
