"""The tables of the beginning."""

from __future__ import annotations

from models.groups import GroupRow
from server_app.tables import partition_table, sites_table


def test_the_partition_says_what_is_trained_and_sent_to_whom() -> None:
    text = partition_table([GroupRow("common", 4, 12345, 49380, True, "all sites")])
    assert "12,345" in text
    assert "0.05" in text
    assert "all sites" in text


def test_many_sites_are_cut_and_counted() -> None:
    site = {"task": "t", "classes": ["a"], "device": "cpu"}
    site |= {"examples": {"train": 1, "validation": 1, "test": 1}}
    text = sites_table({f"s{number:02d}": site for number in range(53)})
    assert "53 sites" in text
    assert "s49" in text
    assert "s50" not in text
    assert "3 more" in text


def test_many_classes_are_cut_and_marked() -> None:
    site = {
        "task": "grade",
        "classes": [f"c{i}" for i in range(9)],
        "examples": {"train": 20, "validation": 4, "test": 5},
        "device": "cpu",
    }
    text = sites_table({"north": site})
    assert "c5, ..." in text
    assert "c6" not in text
    assert "1 sites" in text
