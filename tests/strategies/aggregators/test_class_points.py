"""What a site sends as class means is not trusted, and no site decides alone over the points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from strategies.aggregators.class_means import COUNTS, SUMS
from strategies.aggregators.class_points import Points, joined, limited, points_of
from strategies.config import TeacherConfig

CLIP = TeacherConfig(60.0, 1024.0, 1e6, "clip", 2.0)
MEDIAN, NONE = (TeacherConfig(60.0, 1024.0, 1e6, how, 2.0) for how in ("median", "none"))


def site(means: dict[int, list[float]], weight: float = 1.0) -> Points:
    return Points(
        torch.tensor(list(means.values()), dtype=torch.float64).reshape(len(means), 2),
        torch.tensor(list(means), dtype=torch.int64),
        torch.full((len(means),), weight, dtype=torch.float64),
    )


GOOD = {"a": site({0: [3.0, 4.0], 1: [0.0, 5.0]}), "b": site({0: [4.0, 3.0]}, 2.0)}
BAD = site({0: [300.0, 400.0], 1: [0.0, -1000.0]}, 3.0)


def test_a_bad_sites_means_are_cut_to_a_multiple_of_the_median_norm_and_that_is_said() -> None:
    points, notes = limited({**GOOD, "bad": BAD}, CLIP)
    assert points.means.tolist() == [[3, 4], [0, 5], [4, 3], [6, 8], [0, -10]]
    assert points.classes.tolist() == [0, 1, 0, 0, 1]
    assert points.weights.tolist() == [1, 1, 2, 3, 3]
    (note,) = notes
    assert note.startswith("2 of 2 class means of bad are cut to the norm 10, 2 times the median")


def test_where_nobody_stands_out_no_bit_changes() -> None:
    fair = {**GOOD, "c": site({1: [1.0, 5.0]})}
    points, notes = limited(fair, CLIP)
    assert torch.equal(points.means, joined(list(fair.values())).means)
    assert not notes


def test_of_two_sites_none_is_cut() -> None:
    two = {"a": GOOD["a"], "bad": BAD, "empty": site({})}
    points, notes = limited(two, CLIP)
    assert torch.equal(points.means, joined([GOOD["a"], BAD]).means)
    assert not notes


def test_the_median_of_a_class_is_coordinate_by_coordinate_over_its_sites() -> None:
    points, notes = limited({**GOOD, "bad": BAD}, MEDIAN)
    assert points.classes.tolist() == [0, 1]
    assert points.means.tolist() == [[4, 4], [0, -497.5]]
    assert points.weights.tolist() == [6, 4]
    assert notes == ["1 of 2 classes are at fewer than 3 sites: their median is a mean"]


def test_without_a_limit_all_count_as_they_are() -> None:
    points, notes = limited({**GOOD, "bad": BAD}, NONE)
    assert torch.equal(points.means, joined([*GOOD.values(), BAD]).means)
    assert not notes


@pytest.mark.parametrize("bounds", [CLIP, MEDIAN, NONE])
def test_where_no_site_sent_a_class_there_is_no_point(bounds: TeacherConfig) -> None:
    points, notes = limited({"a": site({}), "b": site({})}, bounds)
    assert not len(points.classes)
    assert not notes


numbers = st.floats(-(2.0**24), 2.0**24, width=32)


@settings(max_examples=30, deadline=None)
@given(st.lists(numbers, min_size=6, max_size=6), st.lists(numbers, min_size=3, max_size=3))
def test_whatever_a_site_sends_its_points_are_finite_and_weigh_at_most_its_examples(
    sums: list[float], counts: list[float]
) -> None:
    sent: dict[str, Tensor] = {
        SUMS: torch.tensor(sums).reshape(3, 2),
        COUNTS: torch.tensor(counts),
    }
    points = points_of(sent, 7)
    assert torch.isfinite(points.means).all()
    assert float(points.weights.sum()) <= 7 + 1e-9
    cut, _ = limited({**GOOD, "odd": points}, CLIP)
    assert np.linalg.norm(cut.means.numpy(), axis=1).max() <= 2 * 2**24


def test_a_class_with_a_mean_that_is_too_large_or_with_fewer_than_no_examples_has_no_point() -> (
    None
):
    sums = torch.tensor([[1.0, 2.0], [0.0, 1e30], [1.0, 1.0], [0.0, 0.0]])
    counts = torch.tensor([0.5, 1e-3, -0.5, 0.0])
    points = points_of({SUMS: sums, COUNTS: counts}, 8)
    assert points.classes.tolist() == [0]
    assert points.means.tolist() == [[2, 4]]
    assert points.weights.tolist() == [4]
