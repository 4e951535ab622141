"""A teacher makes what goes down of what was sent, and nothing of no use."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from strategies.aggregators import MAX_MAGNITUDE
from strategies.aggregators.base import Options, RoundFacts, Tensors
from strategies.aggregators.teacher import Lesson, Teacher
from strategies.config import UNBOUNDED
from tests.helpers.teachers import HINT, Counting, OfEach

FACTS = RoundFacts(3, 7, 20, {})
CURRENT = {HINT: torch.zeros(2)}
SENT = {"fc.bias": torch.tensor([4.0])}


def begun(teacher: Teacher) -> Teacher:
    teacher.inform(FACTS)
    teacher.begin(CURRENT, {})
    return teacher


def test_it_learns_from_the_new_states_of_the_round() -> None:
    teacher = Counting()
    made = begun(teacher).learn({"common": SENT})
    assert made is not None
    assert made[HINT].tolist() == [4.0, 1.0]
    (lesson,) = teacher.lessons
    assert (lesson.number, lesson.seed, lesson.updates) == (3, 7, {})
    assert not CURRENT[HINT].any()


def test_single_updates_are_heard_in_any_order_and_given_by_name() -> None:
    teacher = OfEach()
    begun(teacher)
    for site, value, examples in (("b", 1.0, 5), ("a", 4.0, 9)):
        teacher.hear(site, "common", {"fc.bias": torch.tensor([value])}, examples)
    made = teacher.learn({})
    assert made is not None
    assert float(made[HINT][0]) == 2.5
    (lesson,) = teacher.lessons
    assert list(lesson.updates["common"]) == ["a", "b"]
    assert lesson.examples == {"a": 9, "b": 5}


def test_what_was_heard_in_a_round_that_is_played_again_is_forgotten() -> None:
    teacher = OfEach()
    begun(teacher).hear("a", "common", SENT, 1)
    begun(teacher).hear("b", "common", SENT, 1)
    assert teacher.learn({}) is not None
    assert list(teacher.lessons[0].updates["common"]) == ["b"]


def test_a_site_is_heard_once_and_only_of_what_is_needed() -> None:
    teacher = OfEach()
    begun(teacher).hear("a", "common", SENT, 1)
    with pytest.raises(ValueError, match="'a' was heard of 'common' already"):
        teacher.hear("a", "common", SENT, 1)
    with pytest.raises(ValueError, match="needs no single updates of 'task'"):
        teacher.hear("b", "task", SENT, 1)


def test_nodes_may_send_sums_where_no_single_update_is_needed() -> None:
    assert Counting().takes_sums
    assert not OfEach().takes_sums


class Wild(Counting):
    """Makes a given value, and keeps it."""

    value = 1.0

    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        self.count += 1
        return {HINT: torch.full((2,), self.value)}


@pytest.mark.parametrize(
    ("value", "why"), [(float("nan"), "not finite"), (2 * MAX_MAGNITUDE, "a value above")]
)
def test_what_is_of_no_use_changes_nothing_and_is_said(value: float, why: str) -> None:
    teacher = Wild()
    assert begun(teacher).learn({}) is not None
    teacher.value = value
    assert begun(teacher).learn({}) is None
    assert teacher.note is not None
    assert "what the server learned is left out: extras.hint" in teacher.note
    assert why in teacher.note
    assert teacher.count == 1


class Other(Counting):
    def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
        return {HINT: torch.zeros(3)}


def test_it_makes_the_tensors_of_its_group_and_takes_none() -> None:
    with pytest.raises(ValueError, match="made other tensors than the group has"):
        begun(Other()).learn({})
    sent: Tensors = {HINT: torch.ones(2)}
    teacher = Counting()
    teacher.inform(FACTS)
    teacher.begin(CURRENT, {"a": 1})
    with pytest.raises(TypeError, match="no site sends what Counting makes"):
        teacher.add("a", sent, 1)


def test_what_it_draws_leaves_other_random_numbers_alone() -> None:
    class Draws(Counting):
        def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
            torch.manual_seed(lesson.seed)
            return {HINT: torch.rand(2)}

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert begun(Draws()).learn({}) is not None
    assert torch.equal(torch.rand(1), expected)


def test_it_learns_with_the_threads_of_the_round_and_leaves_those_of_others() -> None:
    seen: list[int] = []

    class Looks(Counting):
        def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
            seen.append(torch.get_num_threads())
            return super()._learn(lesson)

    before = torch.get_num_threads()
    teacher = Looks()
    teacher.inform(replace(FACTS, threads=before + 1))
    teacher.begin(CURRENT, {})
    assert teacher.learn({"common": SENT}) is not None
    assert begun(teacher).learn({"common": SENT}) is not None
    assert seen == [before + 1, before]
    assert torch.get_num_threads() == before


def test_a_teacher_has_options_like_other_aggregators() -> None:
    assert Counting.options_type is Options


# -- what it may take and give ---------------------------------------------------------------------

BOUNDS = replace(UNBOUNDED, norm=5.0, memory_mb=1e-5, seconds=2.0)


def bounded(teacher: Teacher) -> Teacher:
    teacher.inform(replace(FACTS, bounds=BOUNDS))
    teacher.begin(CURRENT, {})
    return teacher


def test_what_is_above_the_norm_is_left_out_and_the_teacher_is_as_before() -> None:
    teacher = Wild()
    assert bounded(teacher).learn({}) is not None
    teacher.value = 4.0
    assert bounded(teacher).learn({}) is None
    assert teacher.note == (
        "what the server learned is left out: it has the norm 5.657, at most 5 is taken "
        "(strategy.teacher.norm)"
    )
    assert teacher.count == 1


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_where_updates_take_too_much_memory_nothing_is_learned_in_any_order(order: str) -> None:
    teacher = OfEach()
    bounded(teacher)
    kept: list[weakref.ref[Tensor]] = []
    for site in order:
        sent = torch.ones(2)
        teacher.hear(site, "common", {"fc.bias": sent}, 1)
        kept.append(weakref.ref(sent))
        del sent
    assert [each() for each in kept] == [None, None]
    assert teacher.learn({}) is None
    assert teacher.note == (
        "the updates of 2 sites take 1.6e-05 MB, at most 1e-05 are kept "
        "(strategy.teacher.memory_mb): the server learned nothing"
    )
    assert not teacher.lessons
    bounded(teacher).hear("a", "common", {"fc.bias": torch.ones(2)}, 1)
    assert teacher.learn({}) is not None


def test_it_stops_when_its_time_is_over_and_what_it_has_counts() -> None:
    class Slow(Counting):
        def _learn(self, lesson: Lesson) -> dict[str, Tensor] | None:
            done = list(lesson.within_time(10, "passes"))
            return {HINT: torch.full((2,), float(len(done)))}

    times = iter(range(100))
    teacher = Slow()
    teacher.clock = lambda: float(next(times))
    made = bounded(teacher).learn({})
    assert made is not None
    assert made[HINT].tolist() == [2, 2]
    assert teacher.note == (
        "the server stopped after 2 of 10 passes, for it took longer than 2 s "
        "(strategy.teacher.seconds)"
    )
