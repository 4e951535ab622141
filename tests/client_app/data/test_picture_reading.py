"""What reading pictures decides: which are left out, and which values become black and white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client_app.data.findings import Findings
from client_app.data.picture_reading import MOST_NAMED, ReadPictures, read_pictures
from client_app.data.registry import load
from fedstrata.support.errors import UserError
from tests.helpers.data_files import fill, picture
from tests.helpers.picture_options import picture_options

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3}


def read(folder: Path, findings: Findings | None = None, **changes: object) -> ReadPictures:
    options = picture_options(**{**PLAIN, **changes})
    return read_pictures(options, sorted(folder.iterdir()), findings or Findings())


def deep(folder: Path, *values: tuple[int, int]) -> Path:
    """Write a picture of 16 bits for each pair: values from the first to the second number."""
    folder.mkdir(exist_ok=True)
    for number, (low, high) in enumerate(values):
        pixels = np.linspace(low, high, 64).round().astype(np.uint16).reshape(8, 8)
        Image.fromarray(pixels).save(folder / f"deep{number}.png")
    return folder


def all_of(pictures: ReadPictures, train: int) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Return the inputs of all pictures, the first ``train`` of which are the training split."""
    rows = np.arange(len(pictures.pictures))
    inputs, span = pictures.inputs([rows[:train], rows[train:]])
    parts = [each.batch(np.arange(len(each))).numpy() for each in inputs if len(each)]
    return np.concatenate(parts), span


def test_training_pictures_decide_the_range_for_all_splits(tmp_path: Path) -> None:
    findings = Findings()
    folder = deep(tmp_path / "a", (100, 4000), (0, 4095), (0, 8190))
    values, span = all_of(read(folder, findings), train=2)
    assert span == (0, 4095)
    assert np.allclose(values[0].min(), 100 / 4095)
    assert np.allclose(values[0].max(), 4000 / 4095)
    assert values[2].max() == 1.0
    assert (values[:, 0] == values[:, 2]).all()
    assert [note.whole for note in findings.notes] == [
        "the values 0 to 4095, of the training pictures, become 0 and 1 (data.range)",
        "pictures with values outside of it, which are cut off: 1",
    ]


def test_a_given_range_or_window_is_used(tmp_path: Path) -> None:
    folder = deep(tmp_path / "a", (0, 1000))
    for changes in ({"range": [0, 2000]}, {"window": [1000, 2000]}):
        values, span = all_of(read(folder, **changes), train=1)
        assert span == (0, 2000)
        assert np.allclose((values.min(), values.max()), (0, 0.5))


def test_deep_pictures_of_one_value_are_refused_unless_a_range_is_given(tmp_path: Path) -> None:
    folder = deep(tmp_path / "a", (7, 7))
    with pytest.raises(
        UserError, match=r"is the same \(7\); mend the files.*data.range=\[0,4095\]"
    ):
        all_of(read(folder), train=1)
    values, span = all_of(read(folder, range=[0, 14]), train=1)
    assert (values == 0.5).all()
    assert span == (0, 14)


def test_pictures_of_eight_bits_that_are_nearly_one_gray_are_a_warning(tmp_path: Path) -> None:
    for number in range(3):  # a mask of 0 and 1, as a program wrote it
        mask = np.arange(64).reshape(8, 8) % (number + 2) % 2
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"{number}.png")
    found = Findings()
    all_of(read(tmp_path, found), train=3)
    assert "less than 1/8 of the values 0 to 255 (they go from 0 to 1" in found.warnings[0].whole
    assert "0 to 1" not in found.warnings[0].public
    given = Findings()
    all_of(read(tmp_path, given, range=[0, 1]), train=3)
    assert not given.warnings


def test_eight_bits_are_scaled_by_255_unless_a_range_is_given(tmp_path: Path) -> None:
    picture(1, 8, 8).save(tmp_path / "a.png")
    plain, span = all_of(read(tmp_path), train=1)
    expected = np.asarray(picture(1, 8, 8)).transpose(2, 0, 1) / 255
    assert np.allclose(plain[0], expected)
    assert span == (0, 255)
    brighter, span = all_of(read(tmp_path, range=[0, 127.5]), train=1)
    assert np.allclose(brighter[0], np.minimum(2 * expected, 1), atol=1e-6)
    assert span == (0, 127.5)


def test_two_depths_are_a_warning(tmp_path: Path) -> None:
    findings = Findings()
    deep(tmp_path / "a", (0, 4095))
    picture(1, 8, 8).save(tmp_path / "a" / "a.png")
    values, _ = all_of(read(tmp_path / "a", findings), train=2)
    assert values.shape == (2, 3, 8, 8)
    assert "two depths: of 2 pictures 1 have more than 8 bits" in findings.warnings[0].whole


def test_a_range_that_most_pictures_do_not_use_is_a_warning(tmp_path: Path) -> None:
    findings = Findings()
    folder = deep(tmp_path / "a", (0, 4095), (0, 4000), (0, 65535))
    all_of(read(folder, findings), train=3)
    assert "give data.range" in findings.warnings[0].whole
    folder = deep(tmp_path / "b", (61000, 65000))
    findings = Findings()
    all_of(read(folder, findings, range=[0, 4095]), train=1)
    assert "give data.range" in findings.warnings[0].whole


def test_one_channel_is_possible(tmp_path: Path) -> None:
    findings = Findings()
    picture(1, 8, 8).save(tmp_path / "a.png")
    values, _ = all_of(read(tmp_path, findings, channels=1), train=1)
    assert values.shape == (1, 1, 8, 8)
    assert findings.notes[0].whole == "data.channels=1: pictures with colors, which become gray: 1"


def test_paths_and_digests_count_as_memory_too(tmp_path: Path) -> None:
    fill(tmp_path, 0, 300)
    kept = read(tmp_path, size=64, memory_mb=2).cache.kept  # 300 squares of 12 KB are 3.5 MB
    assert 0 < sum(square.nbytes for square in kept.values()) <= (2 << 20) - 300 * 4096


def broken(folder: Path, many: int, sound: int) -> Path:
    fill(folder, 0, sound)
    for number in range(many):
        (folder / f"bad{number:02d}.png").write_bytes(b"no picture")
    return folder


def test_all_damaged_pictures_are_named_at_once(tmp_path: Path, caplog) -> None:
    with pytest.raises(UserError) as raised:
        read(broken(tmp_path, MOST_NAMED + 3, 4))
    text = str(raised.value)
    assert "13 of 17 pictures cannot be read" in text
    assert text.count("not a readable picture") == MOST_NAMED
    assert "and 3 more, which the log of this site names" in text
    assert caplog.text.count("not a readable picture") == MOST_NAMED + 3
    assert "data.unreadable=skip" in text
    assert raised.value.public == (
        "13 of 17 pictures cannot be read; mend or remove them, or use data.unreadable=skip"
    )


def test_damaged_pictures_can_be_skipped_up_to_a_number_or_share(tmp_path: Path) -> None:
    broken(tmp_path, 2, 8)
    for most in (0.2, 2):
        findings = Findings()
        kept = read(tmp_path, findings, unreadable="skip", unreadable_most=most)
        assert len(kept.pictures) == 8
        assert kept.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
        assert findings.left_out == {"unreadable": 2}
    for most in (0.1, 1, 0):
        with pytest.raises(UserError, match=r"(?s)2 of 10 pictures.*unreadable_most allows"):
            read(tmp_path, unreadable="skip", unreadable_most=most)


def test_pages_that_are_not_used_are_left_out(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.tif", save_all=True, append_images=[picture(1), picture(2)])
    findings = Findings()
    read(tmp_path, findings)
    assert findings.left_out == {"page": 2}


def test_a_data_set_of_twelve_bits_says_its_range(tmp_path: Path, options, info) -> None:
    for kind, first in (("sick", 0), ("well", 100)):
        deep(tmp_path / kind, *[(first, 4000 + number) for number in range(10)])
    data = load("images", options("images", size=8, **PLAIN), info(root=tmp_path), seed=1)
    assert data.value_range is not None
    assert data.value_range[0] == 0
    assert 4000 < data.value_range[1] < 4010
    levels = data.train.inputs.batch(np.arange(len(data.train))).unique()
    assert len(levels) > 256


def test_a_data_set_can_be_gray(tmp_path: Path, options, info) -> None:
    fill(tmp_path / "cat", 0, 10)
    fill(tmp_path / "dog", 10, 10)
    data = load("images", options("images", size=8, channels=1), info(root=tmp_path), seed=1)
    assert data.input_shape == (1, 8, 8)
    assert data.train.inputs.batch(np.arange(2)).shape == (2, 1, 8, 8)
    assert data.value_range == (0, 255)
