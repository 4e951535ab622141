"""What a site may say of its data, and ranges that are unlike."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedstrata.protocol.data_description import (
    MOST_NOTES,
    DataDescription,
    read_choices,
    unlike_ranges,
)
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError


@pytest.mark.parametrize(
    "wrong",
    [
        {"value_range": (0.0, math.inf)},
        {"value_range": (1.0, 0.0)},
        {"counts": {"all": {"a": 1}}},
        {"counts": {"train": {"a": -1}}},
        {"counts": {"train": {"a\x1b": 1}}},
        {"source": "\n"},
        {"source": "x" * 201},
        {"notes": ("a\nb",)},
        {"digest": "0" * 63},
        {"digest": "patient"},
        {"notes": ("a",) * (MOST_NOTES + 1)},
    ],
)
def test_what_no_site_says_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        DataDescription(**wrong).check()


def test_what_sites_say_is_taken() -> None:
    DataDescription((0.0, 4095.0), {"train": {"a": 3, "b": 0}}, "cardiology", ("a note",)).check()
    DataDescription(digest="0" * 64).check()


def test_choices_are_words_with_commas() -> None:
    assert read_choices("range, classes", "describe") == ("range", "classes")
    assert read_choices("", "describe") == ()
    with pytest.raises(UserError, match="describe has 'patients'; there is range, classes"):
        read_choices("patients", "describe")


def test_ranges_of_twelve_and_sixteen_bits_are_unlike() -> None:
    said = unlike_ranges({"north": (0, 4095), "south": (0, 65535), "west": (0, 4090)})
    assert "north: 0 to 4095; south: 0 to 65535; west: 0 to 4090" in said
    assert "data.range=[0,4095]" in said


def test_ranges_of_one_width_at_other_places_are_unlike() -> None:
    assert "south: 1000 to 1100" in unlike_ranges({"north": (0, 100), "south": (1000, 1100)})


def test_a_site_without_a_range_beside_one_with_it_is_unlike() -> None:
    assert "south: no range" in unlike_ranges({"north": (0, 4095), "south": None})


@pytest.mark.parametrize(
    "ranges",
    [
        {},
        {"north": None, "south": None},
        {"north": (0, 4095), "south": (12, 3900)},
        {"north": (0, 4095)},
        {"north": (5, 5), "south": (5, 5)},
    ],
)
def test_ranges_that_are_alike_are_not_spoken_of(ranges: dict[str, Any]) -> None:
    assert unlike_ranges(ranges) == ""
