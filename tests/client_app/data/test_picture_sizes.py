"""How large the pictures are is said before and after."""

from __future__ import annotations

from client_app.data.picture_sizes import sizes_of


def test_the_smallest_the_commonest_and_the_largest_are_named() -> None:
    found = sizes_of({(500, 375): 3, (10, 20): 1, (20, 9): 1, (600, 600): 2}, (64, 64))
    assert found is not None
    assert found.as_dict() == {
        "before": {
            "smallest": [20, 9],
            "commonest": [500, 375],
            "commonest_count": 3,
            "largest": [600, 600],
        },
        "after": [64, 64],
        "central_square": True,
    }


def test_squares_are_not_cut() -> None:
    found = sizes_of({(28, 28): 5}, (64, 64))
    assert found is not None
    assert not found.cut


def test_pictures_that_stay_rectangles_are_not_cut() -> None:
    found = sizes_of({(28, 14): 5}, (28, 14))
    assert found is not None
    assert not found.cut


def test_no_picture_has_no_size() -> None:
    assert sizes_of({}, (64, 64)) is None
