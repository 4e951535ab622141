"""The files of UCI HAR, official folder and npz: every damage is reported with its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.har_files import ACTIVITIES, open_recordings
from client_app.data.registry import load
from fedstrata.support.errors import UserError
from tests.helpers.data_files import har_recordings


@pytest.fixture
def npz(tmp_path) -> Path:
    path = tmp_path / "har.npz"
    np.savez_compressed(path, **har_recordings())
    return path


@pytest.fixture
def official(tmp_path) -> Path:
    """Write the official layout: subject 7 is in the official test half."""
    folder = tmp_path / "official" / "UCI HAR Dataset"
    arrays = har_recordings()
    for half, here in (("train", arrays["subject"] < 7), ("test", arrays["subject"] == 7)):
        (folder / half).mkdir(parents=True)
        np.savetxt(folder / half / f"X_{half}.txt", arrays["x"][here], fmt="%16.7e")
        for name in ("y", "subject"):
            np.savetxt(folder / half / f"{name}_{half}.txt", arrays[name][here], fmt="%d")
    return folder.parent


def test_the_official_folder_and_the_npz_agree(npz, official, options, info) -> None:
    for index in range(3):
        digests = {
            load(
                "har", options("har"), info(index=index, count=3, root=root), seed=1
            ).test.inputs.digest()
            for root in (npz, official, official / "UCI HAR Dataset")
        }
        assert len(digests) == 1


def test_a_test_example_has_its_row_or_its_line(npz, official, options, info) -> None:
    for index in (0, 2):  # a subject of each half
        site = info(index=index, count=3, root=npz)
        data = load("har", options("har"), site, seed=1)
        assert data.test_places.files[0] == npz
        stored = np.load(npz)["x"][list(data.test_places.rows)].astype(np.float32)
        every = data.test.inputs.batch(np.arange(len(data.test))).numpy()
        assert np.array_equal(every, stored)
        text = load("har", options("har"), info(index=index, count=3, root=official), seed=1)
        file, line = text.test_places.files[0], text.test_places.rows[0]
        assert file.name == ("X_test.txt" if index == 2 else "X_train.txt")
        words = file.read_text().splitlines()[line - 1].split()
        assert np.array_equal(np.array(words, np.float32), every[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((180, 560))}, "561 columns"),
        ({"x": np.zeros((179, 561))}, "180 rows but .* 179"),
        ({"x": np.full((180, 561), np.nan)}, "x: row 1 has NaN"),
        ({"y": np.full(180, 7)}, "y: row 1 is 7"),
        ({"y": np.full(180, 1.5)}, "y: row 1 is 1.5"),
        ({"y": np.full(180, "WALKING")}, "whole number"),
        ({"subject": np.zeros(180)}, "subject: row 1 is 0.0"),
        ({"subject": np.ones((180, 2))}, "whole number"),
        ({"activity_names": np.array(ACTIVITIES[::-1])}, "in this order"),
    ],
)
def test_a_wrong_npz_is_reported(tmp_path, options, info, changes, message) -> None:
    np.savez(tmp_path / "har.npz", **{**har_recordings(), **changes})
    with pytest.raises(UserError, match=message) as error:
        load("har", options("har"), info(index=0, count=3, root=tmp_path), seed=1)
    assert "har.npz" in str(error.value)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("train/X_train.txt", "0.5 " * 560, "X_train.txt: line 3 has 560 columns, not 561"),
        ("train/X_train.txt", "0.5 " * 560 + "abc", "X_train.txt: line 3 has 'abc'"),
        ("test/X_test.txt", "0.5 " * 560 + "nan", "X_test.txt: row 3 has NaN"),
        ("test/y_test.txt", "9", "y_test.txt: row 3 is 9.0, not a whole number from 1 to 6"),
        ("train/subject_train.txt", "1.5", "subject_train.txt: row 3 is 1.5"),
        ("train/y_train.txt", "1\n1", "y_train.txt has 121 rows but .* 120"),
        ("train/y_train.txt", "\xe9", "y_train.txt: line 3"),
    ],
)
def test_a_wrong_text_file_is_reported_with_its_line(
    official, options, info, file, line, message
) -> None:
    path = official / "UCI HAR Dataset" / file
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load("har", options("har"), info(index=0, count=3, root=official), seed=1)


def test_missing_and_empty_files_are_reported(official, tmp_path, options, info) -> None:
    (official / "UCI HAR Dataset" / "test" / "y_test.txt").write_text("")
    with pytest.raises(UserError, match=r"y_test\.txt: no rows"):
        load("har", options("har"), info(index=0, count=3, root=official), seed=1)
    (official / "UCI HAR Dataset" / "test" / "y_test.txt").unlink()
    with pytest.raises(UserError, match=r"y_test\.txt is missing"):
        load("har", options("har"), info(index=0, count=3, root=official), seed=1)
    with pytest.raises(UserError, match=r"exactly one \.npz"):
        load("har", options("har"), info(index=0, count=3, root=tmp_path), seed=1)


def test_a_file_is_read_once_until_it_changes(npz) -> None:
    first = open_recordings(npz)
    assert open_recordings(npz) is first
    np.savez(npz, **har_recordings(per_activity=11))
    assert len(open_recordings(npz).labels) == 198
