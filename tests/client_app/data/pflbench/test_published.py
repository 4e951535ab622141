"""What the readers of published data sets share."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from client_app.data.duplicates import numbered_contents
from client_app.data.pflbench.published import of_pictures, one_of, read_all
from fedstrata.support.errors import UserError


def test_equal_contents_have_one_number_in_order_of_their_first_place() -> None:
    assert numbered_contents([b"b", b"a", b"b", b"c", b"a"]).tolist() == [0, 1, 0, 2, 1]


def test_the_place_of_a_picture_is_its_file_and_number() -> None:
    images = np.zeros((3, 2, 2, 1), dtype=np.uint8)
    labels = np.zeros(3, dtype=np.int64)
    parts = [(images, labels, Path("/a/one"), False), (images, labels, Path("/a/two"), True)]
    made = of_pictures(["x"], parts)
    assert made.where(2).whole == "/a/one, picture 3"
    assert made.where(3).whole == "/a/two, picture 1"
    assert made.tested.tolist() == [False] * 3 + [True] * 3
    assert made.copies.tolist() == [0] * 6


def test_pictures_of_two_sizes_and_labels_too_high_are_refused() -> None:
    def part(side: int, label: int):
        return np.zeros((1, side, side, 1), np.uint8), np.array([label]), Path("/a/one"), False

    with pytest.raises(UserError, match="another size"):
        of_pictures(["x"], [part(2, 0), part(3, 0)])
    with pytest.raises(UserError, match="has the label 1, and the data set has 1 classes"):
        of_pictures(["x"], [part(2, 1)])


def test_a_file_that_ends_early_is_refused() -> None:
    assert read_all(Path("/a"), 3, io.BytesIO(b"abcd")) == b"abc"
    with pytest.raises(UserError, match="ends after 4 of 5 bytes"):
        read_all(Path("/a"), 5, io.BytesIO(b"abcd"))


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    root = tmp_path / "data"
    root.mkdir()
    (root / "train.bin").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link that leaves"):
        one_of(root, root, ["train.bin"])
