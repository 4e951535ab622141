"""What an app may choose in the reports that leave: little, and the same each time."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from flwr.app import Message

from fedstrata.protocol import kinds, orders
from fedstrata.protocol.answers import MEASURED, DeployReport, RoundReport, SiteReport
from fedstrata.protocol.data_description import DataDescription
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.sums import ColumnSums, SumsReport
from fedstrata.protocol.task_kinds import TaskKind
from site_guard.reports import MOST_PLANS, MOST_STATES, ReportRules, installed_versions
from site_guard.settings import SiteSettings

HERE = SiteSettings(site="a", task="gender", state="/s", cache="/c", share=("common", "task"))
METRICS = {
    split: {"examples": 2.0, "loss": 0.5, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None}
    for split in MEASURED
}
ROUND = RoundReport("a", 3, 10, 4, 4, 0.5, 1.0, METRICS, "", numerics=Numerics(1))
SCHEMAS = {"common": {"conv.weight": "float32[2,3]"}, "task": {"head.weight": "float32[4]"}}
WHO = SiteReport(
    site="a",
    task="gender",
    classes=("no", "yes"),
    input_shape=(3, 8, 8),
    examples={"train": 10, "validation": 2, "test": 2},
    baseline={"accuracy": 0.5},
    fingerprints={"common": "", "task": ""},
    schemas=SCHEMAS,
    holds_weights=True,
    device="cpu",
    versions={},
    error="",
)
DIFFERENCES = json.dumps({"coding_down": {"common": {"name": "int8", "per_channel": False}}})
DEPLOYED = DeployReport("a", 3, 10, 2, 4, 4, 0.5, 1.0, METRICS, METRICS, "", numerics=Numerics(1))


def asked(kind: str = kinds.QUERY, plan: str = "{}", run: int = 1) -> Message:
    message = orders.order(kind, 7, plan=plan, round_number=3, layers={}, ttl=60.0)
    message.metadata._run_id = run  # Flower's grid sets it when it sends
    return message


def query(rules: ReportRules, report: SiteReport = WHO, **order: Any) -> SiteReport:
    return rules.site_report(asked(**order), report)[0]


def test_the_guard_writes_versions_and_fingerprints_itself() -> None:
    changed = replace(WHO, versions={"jane": "doe"}, fingerprints={"common": "f" * 64, "task": ""})
    left = query(ReportRules(HERE), changed)
    assert left.versions == installed_versions()
    assert left.fingerprints == query(ReportRules(HERE)).fingerprints
    assert "f" * 64 not in left.fingerprints.values()


def test_the_versions_are_those_that_are_installed() -> None:
    found = installed_versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == str(torch.__version__)
    assert found["flwr"].startswith("1.31.")


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_the_sites_device_is_the_one_that_leaves(device: str) -> None:
    rules = ReportRules(replace_settings(device=device))
    assert query(rules, replace(WHO, device="Jane Doe")).device == device


def test_a_device_that_the_app_finds_is_one_of_two_and_stays() -> None:
    rules = ReportRules(HERE)
    assert query(rules, replace(WHO, device="cuda")).device == "cuda"
    with pytest.raises(Refused, match="other devices than before in this run"):
        query(rules, plan='{"other": 1}')
    with pytest.raises(Refused, match="neither cpu nor cuda"):
        query(ReportRules(HERE), replace(WHO, device="cuda:1"))


@pytest.mark.parametrize(
    "change",
    [
        {"examples": {**WHO.examples, "train": 11}},
        {"examples": {**WHO.examples, "test": 3}},
        {"baseline": {"accuracy": 1.0}},
        {"input_shape": (3, 8, 9)},
        {"classes": ("yes", "no")},
    ],
)
def test_a_second_answer_to_the_same_plan_says_the_same(change: dict[str, Any]) -> None:
    rules = ReportRules(HERE)
    first = query(rules)
    assert query(rules, replace(WHO, baseline={"accuracy": 0.5000001})) == replace(
        first, baseline={"accuracy": 0.5000001}
    )  # it is rounded when it is written
    with pytest.raises(Refused, match=r"than before .* start a new run"):
        query(rules, replace(WHO, **change))
    assert query(rules, replace(WHO, **change), run=2)


@pytest.mark.parametrize(
    "change",
    [
        {"examples": 9},
        {"steps": 5, "planned": 5},
        {"metrics": {**METRICS, "test": {**METRICS["test"], "examples": 1.0}}},
        {"metrics": {**METRICS, "validation": {**METRICS["validation"], "examples": 2.5}}},
        {"numerics": Numerics(2)},
    ],
)
def test_the_counts_of_every_round_are_the_same(change: dict[str, Any]) -> None:
    rules, order = ReportRules(HERE), asked(kinds.TRAIN)
    rules.check_counts(order, ROUND)
    rules.check_counts(order, replace(ROUND, loss=7.0))
    with pytest.raises(Refused, match="than before for the same plan"):
        rules.check_counts(order, replace(ROUND, **change))
    rules.check_counts(asked(kinds.TRAIN, run=2), replace(ROUND, **change))


def test_the_counts_of_a_round_are_those_of_the_query() -> None:
    rules = ReportRules(HERE)
    query(rules)
    with pytest.raises(Refused, match="other numbers of train examples"):
        rules.check_counts(asked(kinds.TRAIN), replace(ROUND, examples=9))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": 3}, "did 3 of 4 steps"),
        ({"seconds": 1e8}, "worked for"),
        ({"seconds": -1.0}, "worked for"),
        ({"loss": -1.0}, "the loss is -1.0"),
        ({"loss": 1e60}, "the loss is"),
        ({"numerics": Numerics(1, micro_batches=3)}, "a way that a site cannot"),
        ({"numerics": Numerics(1, batched_sites=2)}, "a way that a site cannot"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        ReportRules(HERE).check_counts(asked(kinds.TRAIN), replace(ROUND, **change))


def test_a_site_that_limits_its_steps_does_that_many() -> None:
    rules = ReportRules(replace_settings(max_steps=3))
    rules.check_counts(asked(kinds.TRAIN), replace(ROUND, steps=3))
    with pytest.raises(Refused, match="did 2 of 4 steps"):
        rules.check_counts(asked(kinds.TRAIN), replace(ROUND, steps=2))


def test_a_fine_tuning_is_bound_as_a_round_is() -> None:
    rules, order = ReportRules(HERE), asked(kinds.DEPLOY)
    rules.check_counts(order, DEPLOYED)
    for change in ({"tuned": 3}, {"examples": 9}, {"planned": 5, "steps": 5}):
        with pytest.raises(Refused, match="than before for the same plan"):
            rules.check_counts(order, replace(DEPLOYED, **change))


def test_known_states_are_what_orders_named_and_one_start() -> None:
    rules = ReportRules(HERE)
    sent, start, other = "a" * 64, "b" * 64, "c" * 64
    rules.note_state("common", sent)
    known = replace(WHO, known_states={"common": (start, sent, other)})
    assert query(rules, known).known_states == {}  # layers travel whole in this plan
    left = query(rules, known, plan=DIFFERENCES)
    assert left.known_states == {"common": (start, sent)}
    again = replace(WHO, known_states={"common": (other, sent)})
    assert query(rules, again, plan=DIFFERENCES).known_states == {"common": (sent,)}


def test_only_the_latest_states_are_remembered() -> None:
    rules = ReportRules(HERE)
    for number in range(MOST_STATES + 2):
        rules.note_state("common", f"{number:064}")
    known = {"common": (f"{9:064}", f"{0:064}", f"{1:064}", f"{2:064}")}
    left = query(rules, replace(WHO, known_states=known), plan=DIFFERENCES)
    assert left.known_states["common"] == (f"{9:064}", f"{0:064}", f"{2:064}")  # 0 as the start


def test_a_run_has_no_more_plans_than_some() -> None:
    rules = ReportRules(HERE)
    for number in range(MOST_PLANS):
        rules.check_order(asked(plan=json.dumps({"seed": number})))
    rules.check_order(asked(plan='{"seed": 0}'))
    with pytest.raises(Refused, match=f"more than {MOST_PLANS} plans: start another one"):
        rules.check_order(asked(plan="{}"))
    rules.check_order(asked(plan="{}", run=2))


def replace_settings(**changes: Any) -> SiteSettings:
    entries: dict[str, Any] = {"site": "a", "task": "gender", "state": "/s", "cache": "/c"}
    return SiteSettings(**entries, share=("common", "task"), **changes)


SAID = DataDescription(
    (0.0, 4095.0), {"train": {"no": 4, "yes": 6}, "test": {"no": 1}}, "jane", ("doe",), "ab" * 32
)


@pytest.mark.parametrize(
    ("describe", "left"),
    [
        ((), None),
        (("range",), DataDescription((0.0, 4095.0))),
        (("classes",), DataDescription(counts=SAID.counts)),
    ],
)
def test_of_the_data_only_that_leaves_which_the_site_lets_out(
    describe: tuple[str, ...], left: DataDescription | None
) -> None:
    rules = ReportRules(msgspec.structs.replace(HERE, describe=describe))
    assert query(rules, replace(WHO, data=SAID)).data == left


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"train": {"jane": 1}}, "classes that it does not name"),
        ({"train": {"no": 11}}, "more train examples of a class than there are"),
    ],
)
def test_counts_that_are_none_of_the_splits_do_not_leave(
    counts: dict[str, dict[str, int]], said: str
) -> None:
    rules = ReportRules(msgspec.structs.replace(HERE, describe=("classes",)))
    with pytest.raises(Refused, match=said):
        query(rules, replace(WHO, data=DataDescription(counts=counts)))


def test_the_data_are_described_alike_each_time() -> None:
    rules = ReportRules(HERE)
    query(rules, replace(WHO, data=DataDescription((0.0, 1.0))))
    with pytest.raises(Refused, match="other descriptions of its data"):
        query(rules, replace(WHO, data=DataDescription((0.0, 2.0))))


# -- kinds of tasks ------------------------------------------------------------------------------------

PLAN = json.dumps({"data": {"tasks": {"age": {"mean": 50, "std": 9.5, "unit": "years"}}}})
NUMBERS = replace(
    WHO,
    classes=("age",),
    kind=TaskKind("number", mean=(50.0,), std=(9.5,), unit="years"),
    baseline={"mae": 8.0, "rmse": 9.0},
)
ERRORS = {"examples": 2.0, "loss": 0.5, "mae": 6.2, "rmse": 8.1, "r2": 0.25}
MEASURED_ERRORS = dict.fromkeys(MEASURED, ERRORS)


def test_constants_and_unit_are_those_of_the_plan() -> None:
    assert query(ReportRules(HERE), NUMBERS, plan=PLAN).kind == NUMBERS.kind
    for change in ({"mean": (50.25,)}, {"std": (9.0,)}, {"unit": "Jane Doe"}):
        other = replace(NUMBERS, kind=replace(NUMBERS.kind, **change))
        with pytest.raises(Refused, match="not in the plan"):
            query(ReportRules(HERE), other, plan=PLAN)


def test_a_task_keeps_its_kind_and_its_baseline() -> None:
    rules = ReportRules(HERE)
    query(rules, NUMBERS, plan=PLAN)
    with pytest.raises(Refused, match="other constants than before"):
        query(rules, replace(NUMBERS, kind=replace(NUMBERS.kind, loss="huber")), plan=PLAN)
    with pytest.raises(Refused, match="other baselines than before"):
        query(rules, replace(NUMBERS, baseline={"mae": 8.1, "rmse": 9.0}), plan=PLAN)


def test_measures_are_those_of_the_kind_that_the_app_said() -> None:
    rules = ReportRules(HERE)
    query(rules, NUMBERS, plan=PLAN)
    with pytest.raises(Refused, match="measures of another kind"):
        rules.check_counts(asked(kinds.TRAIN), ROUND)
    rules = ReportRules(HERE)
    query(rules, NUMBERS, plan=PLAN)
    rules.check_counts(asked(kinds.TRAIN), replace(ROUND, metrics=MEASURED_ERRORS))
    more = {split: {**ERRORS, "mae/0": 1.0, "mae/1": 2.0} for split in MEASURED}
    with pytest.raises(Refused, match="other measures than before in this run"):
        rules.check_counts(asked(kinds.TRAIN), replace(ROUND, metrics=more))


def test_only_a_last_evaluation_has_an_interval() -> None:
    rules = ReportRules(HERE)
    sure = replace(ROUND, interval=(0.25, 0.75))
    rules.check_counts(asked(kinds.EVALUATE), sure)
    with pytest.raises(Refused, match="an interval, which only a last evaluation has"):
        rules.check_counts(asked(kinds.TRAIN), sure)


SUMS = SumsReport("a", ColumnSums((40, 30), (1.0, 2.0), (1.0, 2.0)))


def test_sums_leave_once_in_a_run_and_over_enough_rows() -> None:
    rules = ReportRules(HERE)
    query(rules, replace(WHO, input_shape=(2,)))
    rules.check_sums(asked(kinds.SUMS), SUMS)
    rules.check_sums(asked(kinds.SUMS, plan='{"seed": 2}'), SUMS)
    with pytest.raises(Refused, match="other sums than before in this run"):
        rules.check_sums(
            asked(kinds.SUMS, plan='{"seed": 3}'),
            SumsReport("a", ColumnSums((39, 30), (1.0, 2.0), (1.0, 2.0))),
        )


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (SumsReport("a", ColumnSums((40,), (1.0,), (1.0,))), "sums of 1 inputs"),
        (replace(SUMS, inputs=replace(SUMS.inputs, count=(40, 19))), "`plan: min-examples`: 20"),
        (replace(SUMS, targets=ColumnSums((1,), (1.0,), (1.0,))), "`plan: min-examples`: 20"),
    ],
)
def test_sums_of_few_rows_or_other_columns_do_not_leave(report: SumsReport, reason: str) -> None:
    rules = ReportRules(HERE)
    query(rules, replace(WHO, input_shape=(2,)))
    with pytest.raises(Refused, match=reason):
        rules.check_sums(asked(kinds.SUMS), report)


def test_only_an_update_that_loses_something_says_what_is_owed() -> None:
    lossy = json.dumps({"coding": {"common": {"name": "int8", "per_channel": False}}})
    owing = replace(ROUND, owed=0.5)
    ReportRules(HERE).check_counts(asked(kinds.TRAIN, plan=lossy), owing)
    for kind, plan in ((kinds.TRAIN, "{}"), (kinds.EVALUATE, lossy)):
        with pytest.raises(Refused, match="nothing is lost by it"):
            ReportRules(HERE).check_counts(asked(kind, plan=plan), owing)


def test_only_a_round_says_which_layers_it_began_with() -> None:
    lost = replace(ROUND, began_with=0)
    ReportRules(HERE).check_counts(asked(kinds.TRAIN), lost)
    with pytest.raises(Refused, match="this is no round"):
        ReportRules(HERE).check_counts(asked(kinds.EVALUATE), lost)


def test_what_sites_agreed_on_does_not_change_in_a_run() -> None:
    rules = ReportRules(HERE)
    for name, value, other in (
        ("agreed", {"mean": [0.0]}, {"mean": [9.0]}),
        ("categories", {"cp": ["1"]}, {"cp": ["2"]}),
    ):
        rules.check_order(asked(plan="{}"))
        rules.check_order(asked(plan=json.dumps({name: value})))
        with pytest.raises(Refused, match=f"another `{name}` than before in this run"):
            rules.check_order(asked(plan=json.dumps({name: other})))
        rules.check_order(asked(plan=json.dumps({name: other}), run=2))


def test_sums_are_of_the_columns_announced_with_the_agreed_categories() -> None:
    rules, plan = ReportRules(HERE), '{"categories": {"cp": ["1", "2"]}}'
    query(rules, replace(WHO, input_shape=(1,)))
    query(rules, replace(WHO, input_shape=(2,)), plan=plan)
    rules.check_sums(asked(kinds.SUMS, plan=plan), SUMS)
    with pytest.raises(Refused, match="sums of 2 inputs and announced others"):
        rules.check_sums(asked(kinds.SUMS), SUMS)
