"""PAMAP2: windows are of one activity, and what is missing lies between its neighbors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.pflbench.pamap2 import ACTIVITIES, read_subject, subject_files, subject_name
from fedstrata.support.errors import UserError
from tests.helpers.published_files import pamap2_file

LARGEST = 1 << 26


def test_windows_are_of_one_activity_and_scaled(tmp_path: Path) -> None:
    path = pamap2_file(tmp_path / "subject105.dat", 1)
    made = read_subject(path, LARGEST)
    names = tuple(ACTIVITIES.values())
    assert subject_name(path) == "subject-105"
    # 0, between two activities, is left out.
    assert [names[label] for label in made.labels] == (
        ["lying"] * 8 + ["walking"] * 8 + ["rope jumping"] * 8
    )
    values = made.values(np.arange(24))
    assert values.shape == (24, 27 * 171)
    recorded = np.loadtxt(path)
    first = recorded[8 * 512 + 5 :][:512:3]  # where lying begins
    windows = values[0].reshape(27, 171)
    np.testing.assert_allclose(windows[0], first[:, 4] / 10, rtol=1e-6)  # hand, acceleration
    np.testing.assert_allclose(windows[3], first[:, 10], rtol=1e-6)  # hand, turning rate
    np.testing.assert_allclose(windows[26], first[:, 49] / 50, rtol=1e-6)  # ankle, magnetic field


def test_missing_values_lie_on_the_line_between_their_neighbors(tmp_path: Path) -> None:
    rows = np.zeros((600, 54))
    rows[:, 1] = 4
    rows[:, 4] = np.arange(600)
    rows[3:6, 4] = np.nan
    np.savetxt(tmp_path / "subject1.dat", rows, fmt="%.1f")
    made = read_subject(tmp_path / "subject1.dat", LARGEST)
    np.testing.assert_allclose(made.values(np.array([0]))[0, :3], [0, 0.3, 0.6], rtol=1e-6)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "subject1.dat"
    with pytest.raises(UserError, match=r"has no subject101\.dat"):
        subject_files(tmp_path)
    row = np.zeros((520, 54))
    for change, said in (
        (np.zeros((2, 5)), "no rows of 54 numbers"),
        (np.zeros((0, 54)), "no rows of 54 numbers"),
        (row, "no activity lasts 512 samples"),
        (row + 0.5, "is no number of an activity"),
        (row + 1000, "numbers that no recording has"),
        (np.where(np.arange(54) == 4, 1e39, row + 1), "numbers that no recording has"),
        (np.where(np.arange(54) == 4, np.nan, row + 1), "a sensor has no values"),
    ):
        np.savetxt(path, change, fmt="%.1f")
        with pytest.raises(UserError, match=said):
            read_subject(path, LARGEST)
    with pytest.raises(UserError, match=r"larger than data\.largest_mb"):
        read_subject(path, 10)
    path.write_bytes(b"\xff\xfe" * 50)
    with pytest.raises(UserError, match="no rows of 54 numbers"):
        read_subject(path, LARGEST)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "subject1.dat").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link that leaves"):
        subject_files(tmp_path / "data")
