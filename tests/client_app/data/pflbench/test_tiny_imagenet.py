"""Tiny-ImageNet: the classes are sorted, and the pictures of validation are those for testing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client_app.data.pflbench.tiny_imagenet import read_tiny_imagenet
from fedstrata.support.errors import UserError
from tests.helpers.published_files import tiny_imagenet_files


def test_pictures_have_the_class_of_their_folder_or_line(tmp_path: Path) -> None:
    made = read_tiny_imagenet(tiny_imagenet_files(tmp_path / "tiny-imagenet-200").parent, 1)
    assert made.classes == ("n00000000", "n00000001", "n00000002")
    assert made.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12 + [0, 1, 2]
    assert int(made.tested.sum()) == 3
    images = made.values(np.array([0, 12, 24, 36]))
    assert images.shape == (4, 64, 64, 3)
    assert np.abs(images[:3, 0, 0, 0].astype(int) - [0, 60, 120]).max() <= 4
    assert len(set(images[3, 0, 0].tolist())) == 1  # gray becomes three equal channels


def test_damaged_pictures_and_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no wnids\.txt"):
        read_tiny_imagenet(tmp_path, 1)
    root = tiny_imagenet_files(tmp_path / "data")
    made = read_tiny_imagenet(root, 1)
    first = root / "train" / "n00000000" / "images" / "n00000000_0.JPEG"
    Image.new("RGB", (65, 64)).save(first)
    with pytest.raises(UserError, match="is not 64x64"):
        made.values(np.array([0]))
    first.write_bytes(b"no picture")
    with pytest.raises(UserError, match="damaged, it cannot be decoded"):
        made.values(np.array([0]))
    first.unlink()
    first.symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="link that leaves"):
        made.values(np.array([0]))
    words = (root / "wnids.txt").read_text()
    (root / "wnids.txt").write_text(f"{words}n00000000\n")
    with pytest.raises(UserError, match=r"wnids\.txt has a class twice \(n00000000\)"):
        read_tiny_imagenet(root, 1)
    (root / "wnids.txt").write_text(words)
    lines = root / "val" / "val_annotations.txt"
    for text in ("val_0.JPEG\tn99999999\n", "val_0.JPEG\n", "../val_0.JPEG\tn00000000\n"):
        lines.write_text(text)
        with pytest.raises(UserError, match="line 1: a picture and its class are needed"):
            read_tiny_imagenet(root, 1)
