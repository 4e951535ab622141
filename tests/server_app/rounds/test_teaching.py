"""A group that goes down only: made after the round, of what sites of its task sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fedstrata.support.errors import UserError
from models.groups import Group, Partition, Scope, partition_tensors
from server_app.compose import compose
from server_app.rounds.contribution import Contribution
from server_app.rounds.state import ServerState
from server_app.rounds.teaching import check_teacher, teaching_lines
from strategies import methods
from strategies.aggregators import make_aggregator
from strategies.aggregators.class_means import COUNTS, SUMS, ClassMeans
from strategies.aggregators.prototype_teacher import LEARNED, PrototypeTeacher
from strategies.config import TeacherConfig
from tests.helpers.runs import SMALL, Crash, same, states
from tests.helpers.teachers import HINT, TASK_HEAD, Counting, Hint, Hinted, OfEach
from tests.loopback import Tamper, simulate

HINTED = [*SMALL, "method.name=hinted", "+method.each=false"]
KEY = "state/hints/gender//extras.hint"


def partition() -> Partition:
    model = nn.ModuleDict({"fc": nn.Linear(2, 2), "extras": Hint()})
    method = Hinted(False)
    return partition_tensors(model, method.groups({}, model), method.known_groups())


def state(*, each: bool = False) -> ServerState:
    made = ServerState(Hinted(each), {"common": {"name": "fedavg"}}, seed=4)
    start = {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2), HINT: torch.zeros(2)}
    for task in ("grade", "stage"):
        made.add_task(task, partition(), start)
    return made


def sent(made: ServerState, site: str, value: float) -> dict[str, Contribution]:
    tensors = {name: torch.full_like(t, value) for name, t in made.states["common"].items()}
    return {"common": Contribution({site: 10}, tensors, 1)}


def test_it_is_made_of_the_mean_after_the_round_and_never_asked_for() -> None:
    made = state()
    assert made.sent_groups("grade") == ("common",)
    assert made.leaving_keys("grade") == {"common": "common"}
    expected = made.begin_round(
        {"a": 10, "b": 10}, {"a": "grade", "b": "grade"}, 2, lambda: EVERYONE
    )
    assert expected == {"common": 20}
    made.add(sent(made, "a", 1.0))
    made.add(sent(made, "b", 3.0))
    kept, _ = made.finish_round({"common": 2})
    assert kept == {}
    assert made.states["hints/grade"][HINT].tolist() == [2.0, 1.0]
    assert not made.states["hints/stage"][HINT].any()  # none of its sites was asked
    teacher = made.aggregators["hints/grade"]
    assert isinstance(teacher, Counting)
    assert (teacher.lessons[0].number, teacher.lessons[0].seed) == (2, 4)


EVERYONE = {"common": 20, "hints/grade": 20, "hints/stage": 20}


def test_single_updates_are_those_of_the_sites_of_its_task() -> None:
    made = state(each=True)
    tasks = {"a": "grade", "b": "grade", "c": "stage"}
    made.begin_round(dict.fromkeys(tasks, 10), tasks, 1, lambda: EVERYONE)
    for site, value in (("c", 9.0), ("b", 3.0), ("a", 1.0)):
        made.add(sent(made, site, value))
    made.finish_round({"common": 3})
    assert made.states["hints/grade"][HINT].tolist() == [2.0, 1.0]
    assert made.states["hints/stage"][HINT].tolist() == [9.0, 1.0]


def test_where_nothing_was_sent_it_stays_and_that_is_said() -> None:
    made = state()
    made.begin_round({"a": 10}, {"a": "grade"}, 1, lambda: EVERYONE)
    kept, _ = made.finish_round({"common": 0})
    assert kept == dict.fromkeys(("common", "hints/grade"), "no update")
    assert not made.states["hints/grade"][HINT].any()


def test_what_a_teacher_keeps_is_in_the_checkpoint() -> None:
    made = state()
    made.begin_round({"a": 10}, {"a": "grade"}, 1, lambda: EVERYONE)
    made.add(sent(made, "a", 1.0))
    made.finish_round({"common": 1})
    saved = made.to_checkpoints()["hints/grade"]
    again = state()
    again.checkpoints = {"hints/grade": saved}
    again.load("hints/grade")
    teacher = again.aggregators["hints/grade"]
    assert isinstance(teacher, Counting)
    assert teacher.count == 1
    assert torch.equal(again.states["hints/grade"][HINT], made.states["hints/grade"][HINT])


def test_a_method_cannot_make_a_group_of_what_no_site_sends() -> None:
    with pytest.raises(TypeError, match="needs a Teacher"):
        check_teacher("hints", make_aggregator("fedavg", {}), partition())
    wrong = Counting()
    wrong.reads = ("personal",)  # type: ignore[misc]
    check_teacher("hints", wrong, partition())  # without tensors there is nothing to read
    wrong.reads = ("hints",)  # type: ignore[misc]
    with pytest.raises(TypeError, match="made of 'hints', which no site sends"):
        check_teacher("hints", wrong, partition())
    everyones = replace(partition(), groups={**partition().groups, "hints": EVERYONES})
    common = replace(everyones, groups={**everyones.groups, "common": ONE_TASKS})
    check_teacher("hints", Counting(), everyones)
    with pytest.raises(TypeError, match="for all sites, and 'common' of one task"):
        check_teacher("hints", Counting(), common)


EVERYONES = Group("hints", Scope.ALL_SITES, knowledge=True, down_only=True)
ONE_TASKS = Group("common", Scope.SAME_TASK)


def test_a_rule_that_needs_single_updates_is_refused_where_nodes_send_sums() -> None:
    made = ServerState(Hinted(True), {}, sums=True)
    with pytest.raises(UserError, match="makes group 'hints' of each site's own update"):
        made.aggregator("hints")
    assert isinstance(ServerState(Hinted(False), {}, sums=True).aggregator("hints"), Counting)
    assert isinstance(ServerState(Hinted(True), {}).aggregator("hints"), OfEach)


BOUNDS = TeacherConfig(30.0, 1.0, 100.0, "clip", 3.0)
CLASS_MEANS = {SUMS: torch.zeros(2, 50), COUNTS: torch.zeros(2)}


def lines(sites: int, bounds: TeacherConfig = BOUNDS, *, cohorts: bool = False) -> Iterator[str]:
    keys = {"prototypes": "prototypes/a", "learned_prototypes": "learned_prototypes/a"}
    aggregators = {
        "common": make_aggregator("fedavg", {}),
        "prototypes/a": ClassMeans(),
        "learned_prototypes/a": PrototypeTeacher(1, 1, 0.1, 1.0, 1.0),
        "prototypes/b": ClassMeans(),  # a task without sites
    }
    states = {"prototypes/a": CLASS_MEANS, "learned_prototypes/a": {LEARNED: torch.zeros(2, 50)}}
    keys_of = {f"site-{n}": keys for n in range(sites)}
    return teaching_lines(aggregators, states, keys_of, bounds, cohorts=cohorts)


def test_the_log_says_what_bounds_the_servers_learning() -> None:
    assert list(lines(3)) == [
        "strategy.teacher: learned_prototypes/a is made by the server; it has at most the norm 100, "
        "takes at most 30 s a round, one site's class means are cut to 3 times the median norm",
        "strategy.teacher: prototypes/a is made by the server; it has at most the norm 100, one site's "
        "class means are cut to 3 times the median norm",
    ]
    assert all(line.endswith("not with fewer than 3 sites as here") for line in lines(2))
    median, none = (replace(BOUNDS, influence=how) for how in ("median", "none"))
    assert all("are the median of the sites" in line for line in lines(3, median))
    assert all("count as they are" in line for line in lines(3, none))
    assert all("a node sends the sum over its sites" in line for line in lines(3, cohorts=True))


@pytest.mark.parametrize(
    ("overrides", "group", "words"),
    [
        (["method=fedktl", "method.each_site=true"], "pictures", "class means are the median of"),
        (["method=fedgh", "method.each_site=true"], "global_head", "class means are the median of"),
        (
            ["method=fedgen", "method.each_site=true"],
            "generator",
            "one site's last layers are cut to 3",
        ),
        (["method=fedgen", "method.each_site=false"], "generator", "takes at most 30 s a round"),
    ],
)
def test_of_every_teacher_is_said_what_of_one_site_is_limited(
    overrides: list[str], group: str, words: str
) -> None:
    method = methods.make_method(compose("faces", [*SMALL, *overrides]).method)
    teacher = method.aggregator(group, lambda: make_aggregator("fedavg", {}))
    keys = {each: each for each in (group, *teacher.needs_updates)}  # type: ignore[attr-defined]
    none: dict[str, dict[str, torch.Tensor]] = {each: {} for each in keys}
    bounds = replace(BOUNDS, influence="median")
    sites = {f"site-{n}": keys for n in range(3)}
    (line,) = teaching_lines({group: teacher}, none, sites, bounds, cohorts=False)
    assert words in line
    assert ("one site" in line or "median" in line) == bool(teacher.limits)


def test_what_cannot_fit_into_memory_is_refused_before_round_1() -> None:
    few = replace(BOUNDS, memory_mb=0.002)
    assert len(list(lines(2, few))) == 2
    with pytest.raises(
        UserError, match=r"memory_mb=0\.002: .* 5 sites, which takes 0\.00244 MB: write .*_mb=1"
    ):
        list(lines(5, few))


# -- whole runs ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "hinted": Hinted})
    Hinted.received.clear()


def test_sites_receive_it_and_never_send_it(tmp_path: Path) -> None:
    results, _ = simulate(tmp_path, "faces", HINTED)
    assert TASK_HEAD.exchanged
    assert not TASK_HEAD.leaves
    assert not TASK_HEAD.trained
    assert [set(record["bytes_up"]) for record in results["rounds"]] == [{"common"}] * 2
    assert [set(record["bytes_down"]) for record in results["rounds"]] == [{"common", "hints"}] * 2
    assert [float(hint[1]) for hint in Hinted.received] == [0.0] * 4 + [1.0] * 4
    row = results["partition"]["gender"][-1]
    assert (row["group"], row["sent_to"]) == ("hints", "nobody (the server makes it)")
    assert float(states(tmp_path, results["run"])[KEY][1]) == 2.0


def dies_in_round_2() -> Tamper:
    def tamper(message, reply):  # type: ignore[no-untyped-def]
        if (message.metadata.message_type, message.metadata.group_id) == ("train", "2"):
            raise Crash
        return reply

    return tamper


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """With half of the sites in each round, and what goes down as differences."""
    chosen = [*HINTED, "method.each=true", "strategy.fraction=0.5"]
    chosen += ["+coding@strategy.coding_down.hints=changed"]
    whole, _ = simulate(tmp_path / "whole", "faces", chosen)
    with pytest.raises(Crash):
        simulate(tmp_path / "again", "faces", chosen, tamper=dies_in_round_2())
    resumed, _ = simulate(tmp_path / "again", "faces", chosen, resume="latest")
    assert same(
        states(tmp_path / "whole", whole["run"]), states(tmp_path / "again", resumed["run"])
    )


@pytest.mark.parametrize("key", ["coding", "minimum", "aggregators"])
def test_nothing_of_what_sites_send_can_be_set_for_it(tmp_path: Path, key: str) -> None:
    settings = {
        "coding": "+coding@strategy.coding.hints=int8",
        "minimum": "+strategy.minimum.hints=1",
        "aggregators": "+aggregator@strategy.aggregators.hints=fedavg",
    }
    with pytest.raises(
        UserError, match=f"strategy.{key}.hints: method hinted makes group 'hints' at"
    ):
        simulate(tmp_path, "faces", [*HINTED, settings[key]], sites=2)


def test_what_any_aggregator_learns_above_the_norm_is_left_out(tmp_path: Path) -> None:
    overrides = [*SMALL, "method=scaffold", "train.optimizer.momentum=0", "strategy.rounds=1"]
    results, _ = simulate(tmp_path, "faces", [*overrides, "strategy.teacher.norm=1e-9"], sites=2)
    (record,) = results["rounds"]
    assert "at most 1e-09 is taken (strategy.teacher.norm)" in record["kept"]["control"]
    assert "common" not in record["kept"]
    found = states(tmp_path, results["run"])
    assert not any(t.any() for name, t in found.items() if name.startswith("state/control"))
