"""Nodes that have many sites: the same results as with a node for each site."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message
from numpy.typing import NDArray
from torch import Tensor

from client_app import context
from client_app.cohort import batched
from client_app.context import DataKey, SiteContext, read_site_data
from client_app.node_config import NodeSettings
from client_app.round import PreparedRound
from client_app.store import DiskStore
from fedstrata.protocol import answers, kinds
from fedstrata.support.errors import UserError
from models import weights
from models.networks import build
from models.training.data import ArrayInputs, SiteData, Split
from tests.helpers.runs import DOCS, GROUPS, SMALL, Crash, same, states
from tests.loopback import LoopbackGrid, failed, simulate

pytestmark = pytest.mark.long  # three minutes of small runs; cohort/ has the small tests

PLAIN = [*SMALL, *GROUPS]


def grid_of(output: Path, nodes: int, tamper: Any = None, data_root: str = "") -> LoopbackGrid:
    node_configs = {100 + i: {"partition-id": i, "num-partitions": nodes} for i in range(nodes)}
    grid = LoopbackGrid(node_configs, {"output-dir": str(output), "data-root": data_root})
    if tamper:
        grid.tamper = tamper
    return grid


def played(
    output: Path, overrides: list[str], nodes: int, sites: int, **more: Any
) -> dict[str, Any]:
    """Play a run over ``nodes`` nodes of ``sites`` sites each, one after the other within a node."""
    chosen = [*overrides, f"cohort.sites={sites}", "cohort.batched=false"]
    grid = grid_of(output, nodes, more.pop("tamper", None))
    return simulate(output, "faces", chosen, grid=grid, **more)[0]


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize(
    "overrides",
    [
        ["method=fedavg"],
        [*GROUPS, "baselines.alone=true", "baselines.reuse=false", "deployment.epochs=1"],
        [
            "method=fedper",
            "aggregator@strategy.aggregators.common=fedadam",
            "strategy.fraction=0.5",
        ],
    ],
    ids=["common", "all groups", "some sites"],
)
def test_cohorts_give_the_results_of_a_node_for_each_site_bit_for_bit(
    tmp_path: Path, nodes: int, overrides: list[str]
) -> None:
    alone = played(tmp_path / "alone", [*SMALL, *overrides], 6, 1)
    cohorts = played(tmp_path / "cohorts", [*SMALL, *overrides], nodes, 6 // nodes)
    expected = states(tmp_path / "alone", alone["run"])
    assert same(expected, states(tmp_path / "cohorts", cohorts["run"]))
    for key in ("sites", "participation", "final", "deployment"):
        assert without_seconds(cohorts[key]) == without_seconds(alone[key])
    for mine, theirs in zip(cohorts["rounds"], alone["rounds"], strict=True):
        for key in ("participants", "sites", "tasks", "refused", "late", "absent", "kept"):
            assert without_seconds(mine[key]) == without_seconds(theirs[key])
    for site in alone["sites"]:
        kept = [
            DiskStore(tmp_path / name, results["federation"], site).before(3)
            for name, results in (("alone", alone), ("cohorts", cohorts))
        ]
        if kept[0] is None or kept[1] is None:
            assert kept == [None, None]
            continue
        assert same(kept[0].flat(), kept[1].flat())


# -- faults ----------------------------------------------------------------------------------------


def in_round_1(change: Any) -> Any:
    """Return a tamper that changes the first node's answer to the order of round 1."""

    def tamper(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type != kinds.TRAIN or message.metadata.group_id != "1":
            return reply
        return change(message, reply) if message.metadata.dst_node_id == 100 else reply

    return tamper


def with_reports(change: Any) -> Any:
    """Return a change of the reports of a cohort's answer, a list of dicts."""

    def changed(_: Message, reply: Message) -> Message:
        reports = [json.loads(text) for text in reply.content["report"]["json"]]  # type: ignore[union-attr]
        texts = [json.dumps(each) for each in change(reports)]
        reply.content["report"] = ConfigRecord({"json": texts})
        return reply

    return changed


def with_site(number: int, **values: Any) -> Any:
    def change(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [each | values if i == number else each for i, each in enumerate(reports)]

    return with_reports(change)


def with_a_sum_of(value: int) -> Any:
    def change(_: Message, reply: Message) -> Message:
        payload = bytearray(answers.read_payloads(reply)["common"])
        payload[-8:] = value.to_bytes(8, "little", signed=True)
        reply.content["layers"]["common"] = kinds.payload_array(bytes(payload))  # type: ignore[index]
        return reply

    return change


def with_an_extra_scope(_: Message, reply: Message) -> Message:
    reply.content["layers"]["personal"] = kinds.payload_array(b"")  # type: ignore[index]
    return reply


@pytest.mark.parametrize(
    ("change", "where", "reason"),
    [
        (with_site(0, round=7), "refused", "in the cohort's sum is .*answers round 7 in round 1"),
        (with_site(0, examples=10**9), "refused", "announced 24"),
        (
            with_site(0, site="rejected_site"),
            "refused",
            "answers for 'rejected_site', which it was not asked",
        ),
        (with_reports(lambda reports: reports[1:]), "refused", "says nothing of site-00"),
        (with_reports(lambda reports: reports[:1] * 4), "refused", "at most 3 are taken"),
        (with_a_sum_of(2**62), "refused", "group common: .* magnitude"),
        (with_an_extra_scope, "refused", "sends groups that may not leave a site: personal"),
        (lambda *_: None, "late", "no answer within"),
        (lambda message, _: failed(message), "absent", "gone"),
        (lambda message, _: answers.failure(message, "", 1, "no disk"), "refused", "no disk"),
    ],
)
def test_a_wrong_answer_costs_the_whole_cohort_that_round(
    tmp_path: Path, change: Any, where: str, reason: str
) -> None:
    overrides = [*PLAIN, "strategy.deadline=3"]
    results = played(tmp_path, overrides, 2, 3, tamper=in_round_1(change))
    schema = json.loads((DOCS / "results.schema.json").read_text())
    jsonschema.validate(results, schema)
    first = results["rounds"][0]
    assert set(first[where]) == {"site-00", "site-01", "site-02"}
    assert all(re.search(reason, text) for text in first[where].values())
    assert first["participants"] == ["site-03", "site-04", "site-05"]
    assert results["rounds"][1]["participants"] == [f"site-0{i}" for i in range(6)]


def test_a_site_that_fails_loses_only_its_own_contribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PreparedRound.train

    def train(prepared: PreparedRound) -> None:
        if prepared.context.data.site == "site-01" and prepared.number == 1:
            raise UserError("the disk is full")
        plain(prepared)

    monkeypatch.setattr(PreparedRound, "train", train)
    runs = [played(tmp_path / str(n), PLAIN, n, 4 // n) for n in (4, 2, 1)]
    for results in runs:
        assert results["rounds"][0]["refused"] == {"site-01": "the disk is full"}
        assert results["participation"]["site-01"] == ["refused", "took part"]
    after = [
        states(tmp_path / str(n), results["run"])
        for n, results in zip((4, 2, 1), runs, strict=True)
    ]
    assert same(after[0], after[1])
    assert same(after[0], after[2])


def test_a_site_without_data_is_excluded_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(key: DataKey, node: NodeSettings) -> Any:
        if node.index in (1, 2):
            raise UserError("no examples in train")
        return read_site_data(key, node)

    monkeypatch.setattr("client_app.cohort.node.read_site_data", read)
    with pytest.raises(UserError, match=r"no examples in train \(virtual sites 1, 2\)"):
        played(tmp_path, PLAIN, 1, 4)
    overrides = [*PLAIN, "strategy.on_site_error=exclude"]
    assert set(played(tmp_path, overrides, 1, 4)["sites"]) == {"site-00", "site-03"}


def test_a_group_counts_the_sites_of_a_cohort_one_by_one(tmp_path: Path) -> None:
    overrides = [*PLAIN, "strategy.minimum.common=4", "strategy.give_up=3", "strategy.deadline=1"]
    assert len(played(tmp_path / "all", overrides, 2, 2)["rounds"]) == 2
    with pytest.raises(UserError, match="group 'common' has 2 of at least 4 sites"):
        played(tmp_path / "two", overrides, 2, 2, tamper=in_round_1(lambda *_: None))


def test_a_resumed_run_gives_the_same_bits_also_with_other_cohorts(tmp_path: Path) -> None:
    overrides = [*PLAIN, "strategy.rounds=3"]
    whole = played(tmp_path / "whole", overrides, 2, 2)

    def dies(message: Message, reply: Message) -> Message:
        if message.metadata.group_id == "2" and message.metadata.message_type == kinds.TRAIN:
            raise Crash
        return reply

    for number, nodes in enumerate((2, 4, 1)):
        output = tmp_path / str(number)
        with pytest.raises(Crash):
            played(output, overrides, 2, 2, tamper=dies)
        resumed = played(output, overrides, nodes, 4 // nodes, resume="latest")
        assert same(states(tmp_path / "whole", whole["run"]), states(output, resumed["run"]))


def test_a_personal_layer_is_in_no_message_of_a_cohort(tmp_path: Path) -> None:
    replies: list[bytes] = []

    def keep(_: Message, reply: Message) -> Message:
        replies.extend(answers.read_payloads(reply).values())
        return reply

    results = played(tmp_path, PLAIN, 2, 2, tamper=keep)
    for site in results["sites"]:
        kept = DiskStore(tmp_path, results["federation"], site).before(2)
        assert kept is not None
        secret = kept.tensors["head.out.weight"].numpy().tobytes()
        assert not any(secret in payload for payload in replies)
    assert all(b"head.out" not in payload for payload in replies)


# -- what a cohort may not do ----------------------------------------------------------------------


def test_a_method_that_needs_single_updates_is_rejected_before_training(tmp_path: Path) -> None:
    for name in ("median", "trimmed_mean", "krum"):
        choice = f"aggregator@strategy.aggregators.common={name}"
        with pytest.raises(UserError, match=r"needs each site's own update.*or cohort.sites=1"):
            played(tmp_path, [*PLAIN, choice], 2, 2)
        assert not list(tmp_path.rglob("round-*"))


def test_a_node_with_a_sites_own_settings_is_no_cohort(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, 2)
    for number, node in enumerate(grid.nodes.values()):
        node |= {"site": f"clinic-{number}"}
    with pytest.raises(UserError, match="this node is one site by its own settings"):
        simulate(tmp_path, "faces", [*PLAIN, "cohort.sites=2"], grid=grid)


def test_a_node_cannot_answer_for_many_sites_in_a_run_without_cohorts(tmp_path: Path) -> None:
    def many(message: Message, reply: Message) -> Message:
        text = str(reply.content["report"]["json"])
        reply.content["report"] = ConfigRecord({"json": [text, text]})
        return reply

    with pytest.raises(UserError, match=r"answers for 2 sites, at most 1 are taken"):
        simulate(tmp_path, "faces", PLAIN, sites=1, tamper=many)


@pytest.mark.parametrize("sites", [0, -1, 10_001])
def test_a_wrong_number_of_sites_is_rejected(tmp_path: Path, sites: int) -> None:
    with pytest.raises(UserError, match=r"cohort\.sites must be a number of sites from 1"):
        simulate(tmp_path, "faces", [*PLAIN, f"cohort.sites={sites}"])


# -- sites that train as one -----------------------------------------------------------------------

HAR = [
    "strategy.rounds=3",
    "strategy.poll=0.01",
    "baselines.alone=false",
    "model.hidden=[12,8]",
    "groups.common=[fc1]",
    "groups.personal=[fc2,head]",
]


def har_file(folder: Path, subjects: int = 6) -> Path:
    """Write measurements of so many subjects, some with more windows than others."""
    generator = np.random.default_rng(1)
    counts = [30 + 7 * (i % 4 // 2) for i in range(subjects)]
    subject = np.repeat(np.arange(1, subjects + 1), counts)
    y = np.concatenate([np.arange(count) % 6 + 1 for count in counts])
    centres = generator.normal(size=(7, 561))
    x = (centres[y] + generator.normal(size=(len(subject), 561))).astype(np.float32)
    path = folder / "har.npz"
    np.savez(path, x=x, y=y, subject=subject)
    return path


def without_classes(final: dict[str, Any]) -> dict[str, Any]:
    """Return the sites' figures without those at an operating point, which the last digits move."""
    moved = ("by_class", "confusion", "calibration", "roc")
    return {
        name: {key: value for key, value in site.items() if key not in moved}
        for name, site in final["sites"].items()
    }


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["method=fedavg", "train.class_weights=balanced"],
        ["method=fedavg", "model=mlp_bn", "strategy.fraction=0.6"],
        ["method=fedbn", "model=mlp_bn", "train.clip=0.1", "train.optimizer.momentum=0"],
        ["groups.pretrained=[fc1]", "groups.common=[fc2]", "groups.personal=[head]"],
    ],
    ids=["layers", "fedavg", "batchnorm", "fedbn", "frozen"],
)
def test_sites_that_train_as_one_end_where_each_ends_alone(
    tmp_path: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = har_file(tmp_path)
    if "groups.pretrained=[fc1]" in overrides:
        torch.manual_seed(1)
        body = build("mlp", input_shape=(561,), classes=6, head=[], hidden=[12, 8]).state_dict()
        weights.save(tmp_path / "body.safetensors", {n: body[n] for n in body if "fc1" in n}, {})
        overrides = [*overrides, "weights=file", f"weights.path={tmp_path / 'body.safetensors'}"]
    teams: list[int] = []
    plain = batched._train_team

    def play(team: Any, *others: Any) -> Any:
        teams.append(len(team.sites))
        return plain(team, *others)

    monkeypatch.setattr(batched, "_train_team", play)
    runs = {}
    for nodes, as_one in ((6, False), (2, False), (2, True)):
        output = tmp_path / f"{nodes}-{as_one}"
        chosen = [
            *HAR,
            *overrides,
            f"cohort.sites={6 // nodes}",
            f"cohort.batched={str(as_one).lower()}",
        ]
        grid = grid_of(output, nodes, data_root=str(root))
        runs[nodes, as_one] = simulate(output, "har", chosen, grid=grid)[0]
        assert bool(teams) == as_one
    expected, alone, one = (
        states(tmp_path / f"{nodes}-{as_one}", results["run"])
        for (nodes, as_one), results in runs.items()
    )
    assert same(expected, alone)
    assert expected.keys() == one.keys()
    assert expected
    for name, tensor in expected.items():
        assert float((tensor.double() - one[name].double()).abs().max()) <= 1e-5, name
    mine, theirs = runs[2, True], runs[6, False]
    assert mine["participation"] == theirs["participation"]
    assert max(batched_sites(mine)) == max(teams) > 1
    assert set(batched_sites(theirs)) == {1}
    for got, wanted in zip(mine["rounds"], theirs["rounds"], strict=True):
        assert close(got["sites"], wanted["sites"])
        assert close(got["tasks"], wanted["tasks"])
    assert close(without_classes(mine["final"]), without_classes(theirs["final"]))
    for site in theirs["sites"]:
        kept = [
            DiskStore(tmp_path / f"{nodes}-{as_one}", results["federation"], site).before(4)
            for (nodes, as_one), results in runs.items()
            if (nodes, as_one) != (2, False)
        ]
        if kept[0] is None or kept[1] is None:
            assert kept == [None, None]
            continue
        before, after = kept[0].flat(), kept[1].flat()
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert float((tensor.double() - after[name].double()).abs().max()) <= 1e-5, name


def test_a_team_is_measured_with_its_own_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks are two teams where their sites have unequal numbers of examples."""

    def by_task(tail: Any, ready: Any, elements: int) -> Any:
        tasks: dict[str, list[Any]] = {}
        for site in ready:
            tasks.setdefault(site.context.data.task, []).append(site)
        yield from tasks.values()

    monkeypatch.setattr(batched, "_teams", by_task)
    groups = ["groups.common=[fc1]", "groups.task=[fc2]", "groups.personal=[head]"]
    chosen = [
        *SMALL,
        "model=mlp",
        "model.hidden=[12,8]",
        "model.head=[]",
        *groups,
        "cohort.sites=4",
    ]
    found = {}
    for as_one in (False, True):
        output = tmp_path / str(as_one)
        overrides = [*chosen, f"cohort.batched={str(as_one).lower()}", "strategy.rounds=3"]
        found[as_one] = simulate(output, "faces", overrides, grid=grid_of(output, 1))[0]
    assert len({site["task"] for site in found[True]["sites"].values()}) == 2
    for mine, theirs in zip(found[True]["rounds"], found[False]["rounds"], strict=True):
        assert close(mine["sites"], theirs["sites"])


def batched_sites(results: dict[str, Any]) -> list[int]:
    """Return of how many sites each update of a run was computed as one."""
    sites = [site for record in results["rounds"] for site in record["sites"].values()]
    return [site["numerics"]["batched_sites"] for site in sites]


def close(mine: Any, theirs: Any) -> bool:
    """Return whether two results are the same but for rounding, its causes, and times."""
    if isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(
            close(mine[k], theirs[k]) for k in theirs if k not in ("seconds", "numerics")
        )
    if isinstance(theirs, float):
        return bool(mine == pytest.approx(theirs, abs=1e-5))
    return bool(mine == theirs)


def test_a_site_that_diverges_in_a_team_loses_only_its_own_contribution(
    tmp_path: Path,
) -> None:
    root = har_file(tmp_path)
    recordings = dict(np.load(root))
    recordings["x"][recordings["subject"] == 2] *= np.float32(1e30)
    np.savez(root, **recordings)
    runs = []
    for nodes in (6, 1):
        output = tmp_path / str(nodes)
        chosen = [*HAR, "method=fedavg", "train.clip=null", f"cohort.sites={6 // nodes}"]
        grid = grid_of(output, nodes, data_root=str(root))
        runs.append(simulate(output, "har", chosen, grid=grid)[0])
        refused = runs[-1]["rounds"][0]["refused"]
        assert list(refused) == ["subject-02"]
        assert "lower train.optimizer.lr" in refused["subject-02"]
    alone, one = (
        states(tmp_path / n, results["run"]) for n, results in zip("61", runs, strict=True)
    )
    assert all(float((alone[n] - one[n]).abs().max()) <= 1e-5 for n in alone)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=ditto"], "method ditto trains in its own way"),
        (["model.dropout=0.5", "model.head=[8]"], "Dropout"),
        (["cohort.batched=false"], "cohort.batched=false"),
        (["train.compile=true"], "train.compile=true"),
    ],
)
def test_sites_that_cannot_train_as_one_train_one_after_the_other_and_say_why(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    reason: str,
) -> None:
    # compiled to the same operations, for which no compiler is needed
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(context, "_check_compiler", lambda device: None)
    root = har_file(tmp_path)
    batched._say_once.cache_clear()
    caplog.set_level("INFO", logger="flwr")
    runs = {}
    for nodes in (6, 2):
        output = tmp_path / str(nodes)
        chosen = [*HAR, *overrides, f"cohort.sites={6 // nodes}"]
        grid = grid_of(output, nodes, data_root=str(root))
        runs[nodes] = states(output, simulate(output, "har", chosen, grid=grid)[0]["run"])
    assert same(runs[6], runs[2])
    said = [r.message for r in caplog.records if "one after the other" in r.message]
    assert len(said) == 1
    assert reason in said[0]


@dataclass(frozen=True)
class Gone(ArrayInputs):
    """Inputs of which no more than ``at_most`` can be read: their file has gone."""

    at_most: int = 0

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        if len(indices) > self.at_most:
            raise UserError("a file in the data folder: cannot be read")
        return super().batch(indices)


@pytest.mark.parametrize("at_most", [0, 1], ids=["before the teams", "in training"])
def test_a_lost_file_costs_only_its_own_site_of_a_team(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most: int
) -> None:
    def gone(key: DataKey, node: NodeSettings) -> SiteData:
        data = read_site_data(key, node)
        train = data.train
        assert isinstance(train.inputs, ArrayInputs)
        if data.site == "subject-02":
            train = Split(Gone(train.inputs.values, at_most=at_most), train.labels)
        return replace(data, train=train)

    monkeypatch.setattr("client_app.cohort.node.read_site_data", gone)
    grid = grid_of(tmp_path, 1, data_root=str(har_file(tmp_path)))
    results, _ = simulate(tmp_path, "har", [*HAR, "cohort.sites=6"], grid=grid)
    for record in results["rounds"]:
        assert record["refused"] == {"subject-02": "a file in the data folder: cannot be read"}
        assert len(record["participants"]) == 5


def test_a_site_without_memory_for_a_team_trains_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = batched._ready_site

    def short(site_context: SiteContext, *more: Any) -> Any:
        if site_context.data.site == "subject-02":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(site_context, *more)

    monkeypatch.setattr(batched, "_ready_site", short)
    grid = grid_of(tmp_path, 1, data_root=str(har_file(tmp_path)))
    results, _ = simulate(tmp_path, "har", [*HAR, "cohort.sites=6"], grid=grid)
    for record in results["rounds"]:
        assert record["refused"] == {}
        assert len(record["participants"]) == 6
