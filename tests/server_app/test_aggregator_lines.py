"""Groups that a bad site can move are named, where others have a robust aggregator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server_app.aggregator_lines import robust_lines
from server_app.compose import compose
from server_app.run import checked
from strategies.aggregators import AGGREGATORS
from strategies.config import BoundsConfig, plan_for
from tests.helpers.runs import SMALL
from tests.helpers.site_contexts import opened
from tests.loopback import simulate


def lines(*overrides: str, **bounds: Any) -> list[str]:
    config = compose("faces", [*SMALL, *overrides])
    context = opened(plan_for(config, federation="run-1", weights=""))
    state = checked(config)
    state.add_task("gender", context.partitioned.partition, context.start)
    chosen: BoundsConfig = replace(config.strategy.bounds, **bounds)
    return list(robust_lines(state, chosen))


@pytest.mark.parametrize(
    ("method", "group"),
    [
        (
            ["method=scaffold"],
            "control: ControlVariates bears no bad site, which can move it by up",
        ),
        (["method=dbe"], "means: FedAvg bears no bad site, which can move it by up to strategy"),
        (
            ["method=fedprox", "method.adapt=true"],
            "proximal: ProximalWeight bears no bad site, which can move it as it likes, although",
        ),
    ],
)
def test_knowledge_is_named_beside_robust_layers(method: list[str], group: str) -> None:
    (line,) = lines("strategy=robust", *method)
    assert line.startswith(group)
    assert "alone says how it is aggregated" in line
    assert lines(*method) == []


@pytest.mark.parametrize(
    ("more", "far"),
    [
        ([], "through last layers, within strategy.teacher.influence=clip, although task bear one"),
        (["strategy.teacher.influence=none"], "as it likes, although task bear one"),
        (["method.each_site=false"], "as far as what it is made of: label_counts, task, although"),
        (
            ["method.each_site=false", "method.counts=false"],
            "as far as what it is made of: task, a",
        ),
    ],
)
def test_what_limits_one_site_in_what_the_server_learns_is_named(more: list[str], far: str) -> None:
    line, *of_counts = lines("strategy=robust", "method=fedgen", *more)
    assert line.startswith("generator: GeneratorTeacher")
    assert f"bears no bad site, which can move it {far}" in line
    assert all(
        "label_counts: FedAvg bears no bad site, which can move it as it likes" in each
        for each in of_counts
    )


def test_a_group_of_layers_that_is_left_out_is_named_with_what_to_write() -> None:
    chosen = [
        "groups.task=[head.out]",
        "aggregator@strategy.aggregators.common=median",
        "strategy.minimum.common=3",
    ]
    (line,) = lines(*chosen)
    assert "choose one with aggregator@strategy.aggregators.task=trimmed_mean" in line
    (line,) = lines(*chosen, norm_factor=None)
    assert "task: FedAvg bears no bad site, which can move it as it likes" in line
    assert lines("strategy=robust", "groups.task=[head.out]") == []


def test_which_aggregators_bear_a_bad_site() -> None:
    robust = {name for name, each in AGGREGATORS.items() if each.robust}
    assert robust == {"median", "trimmed_mean", "krum"}


# -- whole runs ------------------------------------------------------------------------------------

ONE = [*SMALL, "strategy.rounds=1", "data.tasks=[gender]"]


def test_bounds_and_what_the_server_learns_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulate(tmp_path, "faces", [*ONE, "method=fedtgp", "method.epochs=1"])
    assert "strategy.teacher: learned_prototypes/gender is made by the server" in caplog.text
    assert "strategy.teacher: prototypes/gender is made by the server" in caplog.text
    assert "strategy.bounds: an update is refused above 10 times" in caplog.text


def test_a_buffered_aggregator_and_a_step_of_variances_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = ["aggregator@strategy.aggregators.common=median", "strategy.minimum.common=3"]
    simulate(tmp_path / "median", "faces", [*ONE, *chosen])
    assert "common: Median needs all updates of a round: within 2048 MB" in caplog.text
    chosen = ["aggregator@strategy.aggregators.common=fedadam", "groups=all_common"]
    simulate(tmp_path / "adam", "faces", [*ONE, *chosen])
    assert "BatchNorm variances, which may become negative" in caplog.text
