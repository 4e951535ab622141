"""Who is asked in a round, and whether they are enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_app.rounds.sampling import reachable_answers, sample, share_of, too_few
from tests.helpers.members import member

BY_TASK = {
    "grade": [member(f"g{i}", "grade", i) for i in range(8)],
    "stage": [member(f"s{i}", "stage", 10 + i) for i in range(3)],
}


def scope_keys(task: str) -> dict[str, str]:
    return {"common": "common", "task": f"task/{task}"}


def test_each_task_is_sampled_by_its_share() -> None:
    chosen = sample(BY_TASK, 0.5, seed=1, round_number=1)
    assert sorted({m.task for m in chosen}) == ["grade", "stage"]
    assert [m.task for m in chosen].count("grade") == 4
    assert [m.task for m in chosen].count("stage") == 2


def test_a_round_asks_the_same_sites_each_time_and_another_asks_others() -> None:
    first = sample(BY_TASK, 0.5, seed=1, round_number=1)
    assert first == sample(BY_TASK, 0.5, seed=1, round_number=1)
    others = [sample(BY_TASK, 0.5, seed=1, round_number=n) for n in range(2, 6)]
    assert any(first != other for other in others)


def test_another_attempt_asks_other_sites() -> None:
    attempts = [sample(BY_TASK, 0.5, 1, 1, attempt) for attempt in range(5)]
    assert any(attempts[0] != other for other in attempts[1:])


@given(sites=st.integers(1, 1000), fraction=st.floats(0.001, 1))
def test_a_share_is_at_least_one_site_and_at_most_all(sites: int, fraction: float) -> None:
    assert 1 <= share_of(sites, fraction) <= sites


def test_only_connected_sites_can_answer_and_no_more_than_are_asked() -> None:
    connected = {0, 1, 2, 3, 4, 10}
    assert reachable_answers(BY_TASK, connected, 0.5, scope_keys) == {
        "common": 5,
        "task/grade": 4,
        "task/stage": 1,
    }


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"common": 3, "task/grade": 2}, ""),
        ({"common": 2, "task/grade": 2}, "group 'common' has 2 of at least 3 sites"),
        (
            {"common": 1},
            "group 'common' has 1 of at least 3 sites, group 'task/grade' has 0 of at least 1 sites",
        ),
    ],
)
def test_scopes_with_too_few_answers_are_named(answers: dict[str, int], expected: str) -> None:
    assert too_few(["common", "task/grade"], answers, {"common": 3, "task": 1}) == expected
