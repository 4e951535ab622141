"""Which update of a site counted last, as the records of the rounds say."""

from __future__ import annotations

from server_app.rounds.dispatch import last_taken, last_whole

KEYS = {"common": "common", "task": "task/grade"}


def entry(number: int, participants: list[str], **kept: str) -> dict[str, object]:
    return {"round": number, "participants": participants, "kept": kept}


def test_a_site_that_never_took_part_has_no_update() -> None:
    assert last_taken([entry(1, ["south"])], "north", KEYS) == {"common": 0, "task": 0}


def test_a_group_that_kept_its_state_did_not_count() -> None:
    history = [
        entry(1, ["north", "south"]),
        entry(2, ["north"], **{"task/grade": "too few"}),
        entry(3, ["south"]),
    ]
    assert last_taken(history, "north", KEYS) == {"common": 2, "task": 1}


def test_groups_that_lose_nothing_need_no_look() -> None:
    assert last_taken([entry(1, ["north"])], "north", {}) == {}


def test_the_last_update_counts_where_all_its_groups_were_aggregated() -> None:
    history = [
        entry(1, ["north", "south"]),
        entry(2, ["north", "south"], **{"task/grade": "too few"}),
        entry(3, ["south"]),
    ]
    keys = {"north": ["common", "task/grade"], "south": ["common"], "east": ["common"]}
    assert last_whole(history, keys) == {"north": 1, "south": 3}
    assert last_whole([], keys) == {}
