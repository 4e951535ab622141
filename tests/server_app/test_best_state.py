"""The best state is the one that was measured in the rounds, layer by layer, whatever went wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message

from client_app.context import open_site
from client_app.node_config import read_node_settings
from client_app.store import DiskStore
from fedstrata.protocol import kinds
from models import weights
from models.model_file import read_card
from server_app.compose import compose
from strategies.config import plan_for
from tests.helpers.runs import PLAIN, Crash, same, states, without_times
from tests.helpers.tampering import one_in, silent
from tests.loopback import Tamper, simulate

BEST = 1  # the round after which the state is called best, by what `judged` makes of reports
END = 7  # the number of the last evaluation, one after the last round
LEARNING = [
    *PLAIN,
    "groups.personal=[head.out, 'type:BatchNorm2d']",
    "choose.metric=loss",
    f"strategy.rounds={END - 1}",
]


def judged(then: Tamper = lambda _, reply: reply, best: int = BEST) -> Tamper:
    """Return a tamper: on validation data the state after round ``best`` has the lowest loss."""

    def tamper(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type in (kinds.TRAIN, kinds.EVALUATE):
            texts = reply.content["report"]["json"]
            several = [texts] if isinstance(texts, str) else texts
            changed = [better(json.loads(str(text))) for text in several]
            said = changed[0] if isinstance(texts, str) else changed
            reply.content["report"] = ConfigRecord({"json": said})
        return then(message, reply)

    def better(report: dict[str, Any]) -> str:
        if not report["error"]:
            state = min(report["round"], END) - 1
            report["metrics"]["validation"]["loss"] = abs(state - best) + 0.5
        return json.dumps(report)

    return tamper


def run(output: Path, *more: str, tamper: Tamper | None = None, **keys: Any) -> dict[str, Any]:
    """Return the results of a run of which the state after round `BEST` is the best."""
    results, _ = simulate(output, "faces", [*LEARNING, *more], tamper=tamper or judged(), **keys)
    return results


def files(output: Path, results: dict[str, Any], which: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return the whole models that the sites wrote, by site."""
    folder = output / results["federation"] / "sites"
    return {
        path.parent.parent.name: weights.load(path)[0]
        for path in sorted(folder.glob(f"*/models/{which}.safetensors"))
        if path.stat().st_size
    }


def measured_in_its_round(results: dict[str, Any]) -> None:
    """Check that the figures of the best state are those which its round measured."""
    best = results["best"]
    after = results["rounds"][BEST]["sites"]
    assert best["round"] == BEST
    assert best["sites"]
    for name in best["sites"].keys() & after.keys():
        for key in ("loss", "accuracy", "validation"):
            assert best["sites"][name][key] == after[name][key], name


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["strategy.coding.common=topk", "strategy.coding_down.common=topk"],
        ["strategy.fraction=0.5", "aggregator@strategy.aggregators.common=fedadam"],
    ],
)
def test_the_best_state_is_measured_again_to_the_bit(tmp_path: Path, more: list[str]) -> None:
    results = run(tmp_path, *more)
    measured_in_its_round(results)
    last, best = files(tmp_path, results, "last"), files(tmp_path, results, "best")
    assert sorted(last) == sorted(best) == [f"site-0{i}" for i in range(4)]
    assert not any(same(last[name], best[name]) for name in best)


def dies_at(kind: str, number: int, calls: int = 2) -> Tamper:
    """Return a tamper: the server dies at an answer of that kind in that round."""
    seen = 0

    def tamper(message: Message, reply: Message) -> Message:
        nonlocal seen
        seen += (message.metadata.message_type, message.metadata.group_id) == (kind, str(number))
        if seen == calls:
            raise Crash
        return reply

    return judged(tamper)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the results of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    return output, run(output)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (kinds.TRAIN, BEST),
        (kinds.TRAIN, BEST + 1),
        (kinds.TRAIN, BEST + 2),
        (kinds.EVALUATE, END),
        (kinds.EVALUATE, BEST + 1),
    ],
)
def test_a_run_that_died_anywhere_gives_the_same_models(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]], kind: str, number: int
) -> None:
    output, expected = whole
    with pytest.raises(Crash):
        run(tmp_path, tamper=dies_at(kind, number))
    resumed = run(tmp_path, resume="latest")
    assert without_times(resumed) == without_times(expected)
    for which in ("last", "best"):
        found, models = files(tmp_path, resumed, which), files(output, expected, which)
        assert found.keys() == models.keys() != set()
        assert all(same(models[site], found[site]) for site in models)
    assert len(list((tmp_path / resumed["run"] / "checkpoints").glob("round-*"))) <= 4


@pytest.mark.parametrize("missed", [BEST, BEST + 1])
def test_a_site_that_missed_an_order_has_the_layers_of_before(tmp_path: Path, missed: int) -> None:
    lost = judged(one_in(missed, "site-02", silent))
    results = run(tmp_path, "strategy.deadline=2", tamper=lost)
    assert results["participation"]["site-02"][missed - 1] == "late"
    measured_in_its_round(results)
    assert "site-02" in results["best"]["sites"]


def test_sites_of_a_cohort_write_what_single_sites_do(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    several = ["cohort.sites=2", "cohort.batched=false"]
    results = run(tmp_path, *several, sites=2)
    measured_in_its_round(results)
    output, alone = whole
    for which in ("last", "best"):
        mine, other = files(output, alone, which), files(tmp_path, results, which)
        assert mine.keys() == other.keys() != set()
        assert all(same(mine[site], other[site]) for site in mine)


def test_batched_sites_keep_the_layers_of_the_best_state(tmp_path: Path) -> None:
    results = run(tmp_path, "cohort.sites=4", "keep_models_mb=0.01", sites=1)
    assert (results["best"]["round"], results["best"]["refused"]) == (BEST, {})
    for site, now in results["best"]["sites"].items():
        then = results["rounds"][BEST]["sites"][site]
        assert now["loss"] == pytest.approx(then["loss"], abs=1e-4)
    assert files(tmp_path, results, "last") == {}  # they would take more than that


def test_a_site_that_lost_its_layers_says_so_and_writes_no_best_model(tmp_path: Path) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        if (message.metadata.message_type, message.metadata.group_id) == (kinds.EVALUATE, str(END)):
            for path in tmp_path.glob("*/sites/site-01/round-00000[0-4].*"):
                path.unlink()
        return reply

    results = run(tmp_path, tamper=judged(tamper))
    assert "no longer on this site's disk" in results["best"]["refused"]["site-01"]
    assert sorted(files(tmp_path, results, "best")) == ["site-00", "site-02", "site-03"]
    assert len(files(tmp_path, results, "last")) == 4


def test_a_lost_checkpoint_of_the_best_state_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tamper(message: Message, reply: Message) -> Message:
        if (message.metadata.message_type, message.metadata.group_id) == (kinds.EVALUATE, str(END)):
            for path in tmp_path.glob("*/checkpoints/round-*/state.safetensors"):
                path.write_bytes(b"")
        return reply

    with caplog.at_level(logging.ERROR, "flwr"):
        results = run(tmp_path, tamper=judged(tamper))
    assert results["best"] is None
    assert "is lost" in caplog.text


def test_the_best_state_that_is_the_last_is_not_measured_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        results, grid = simulate(tmp_path, "faces", [*LEARNING, "strategy.rounds=1"])
    assert results["best"]["round"] == 1
    assert results["best"]["sites"] == results["final"]["sites"]
    assert "which is the last" in caplog.text
    assert len([m for m in grid.sent if m.metadata.message_type == kinds.EVALUATE]) == 4
    last, best = files(tmp_path, results, "last"), files(tmp_path, results, "best")
    assert len(last) == 4
    assert all(same(last[site], best[site]) for site in last)
    path = DiskStore(tmp_path, results["federation"], "site-00").folder / "models"
    cards = [read_card(path / f"{which}.safetensors") for which in ("last", "best")]
    assert [(card.state, card.round) for card in cards] == [("last", 1), ("best", 1)]


def test_a_site_that_has_no_last_model_is_named_where_that_is_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def loses(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.EVALUATE:
            for path in tmp_path.glob("*/sites/site-01/models/last.safetensors"):
                path.write_bytes(b"")
        return reply

    with caplog.at_level(logging.INFO, "flwr"):
        results, _ = simulate(tmp_path, "faces", [*LEARNING, "strategy.rounds=1"], tamper=loses)
    assert "site site-01 has no best model, which is its last one" in caplog.text
    assert sorted(files(tmp_path, results, "best")) == ["site-00", "site-02", "site-03"]


@pytest.mark.parametrize(("keep", "there"), [("none", []), ("last", ["last"])])
def test_what_is_kept_can_be_chosen(tmp_path: Path, keep: str, there: list[str]) -> None:
    results = run(tmp_path, f"keep_models={keep}")
    assert [w for w in ("last", "best") if files(tmp_path, results, w)] == there
    measured_in_its_round(results)  # all the same


def test_patience_stops_the_rounds_and_a_resumed_run_too(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flwr")
    patient = ("choose.patience=1", "baselines.alone=true")
    with pytest.raises(Crash):
        run(tmp_path, *patient, tamper=dies_at(kinds.EVALUATE, END))
    results = run(tmp_path, *patient, resume="latest")
    assert results["stopped"]["round"] == len(results["rounds"]) == BEST + 2
    assert "no better loss on validation data" in results["stopped"]["reason"]
    assert "alone, to compare: 3 rounds, as the run, of 6" in caplog.text
    _, every = whole
    assert every["stopped"] is None
    assert without_times(results["rounds"]) == without_times(every["rounds"][: BEST + 2])


def test_a_run_whose_last_checkpoint_is_damaged_keeps_the_best_one(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    with pytest.raises(Crash):
        run(tmp_path, tamper=dies_at(kinds.TRAIN, 5))
    begun = next(tmp_path.glob("*/run.json")).parent
    (begun / "checkpoints" / "round-000004" / "state.safetensors").write_bytes(b"")
    results = run(tmp_path, resume="latest")
    output, expected = whole
    assert same(states(tmp_path, results["run"]), states(output, expected["run"]))
    assert without_times(results["best"]) == without_times(expected["best"])


def test_a_model_file_gives_the_figures_of_the_run(whole: tuple[Path, dict[str, Any]]) -> None:
    output, results = whole
    plan = plan_for(compose("faces", LEARNING), federation=results["federation"], weights="")
    context = open_site(read_node_settings({"partition-id": 1, "num-partitions": 4}, {}), plan)
    test = context.data.test
    for which, part in (("last", "final"), ("best", "best")):
        network = context.partitioned.network.eval()
        context.partitioned.load(files(output, results, which)["site-01"])
        given = test.inputs.batch(np.arange(len(test)))
        right = (network(given).argmax(1) == torch.from_numpy(test.labels)).float().mean()
        assert float(right) == pytest.approx(results[part]["sites"]["site-01"]["accuracy"])


def test_the_disk_of_a_site_has_two_rounds_more_at_most(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    output, results = whole
    assert DiskStore(output, results["federation"], "site-00").rounds() == [BEST, BEST + 1, 4, 5, 6]
