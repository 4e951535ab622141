"""UCI HAR: official folder and npz, one subject a site; every damage is reported with its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.har import ACTIVITIES, open_recordings
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


def test_a_site_is_a_subject(npz, options, info) -> None:
    for root in (npz, npz.parent):
        data = load("har", options("har"), info(index=1, count=3, root=root), seed=1)
        assert data.site == data.task == "subject-03"
        assert data.classes == ACTIVITIES
        assert data.input_shape == (561,)
        assert (len(data.train), len(data.validation), len(data.test)) == (42, 6, 12)
        assert np.bincount(data.test.labels).tolist() == [2] * 6


def test_features_are_not_changed(npz, options, info) -> None:
    data = load("har", options("har"), info(index=0, count=3, root=npz), seed=1)
    rows = data.train.inputs.batch(np.arange(len(data.train))).numpy()
    features = har_recordings()["x"][:60]
    assert all((features == row).all(axis=1).any() for row in rows)


def test_the_official_folder_and_the_npz_agree(npz, official, options, info) -> None:
    for index in range(3):
        digests = {
            load(
                "har", options("har"), info(index=index, count=3, root=root), seed=1
            ).test.inputs.digest()
            for root in (npz, official, official / "UCI HAR Dataset")
        }
        assert len(digests) == 1


def test_splits_of_a_subject_are_disjoint_and_repeat(npz, options, info) -> None:
    def rows(split: str, seed: int) -> list[set[bytes]]:
        chosen = options("har", split=split)
        data = load("har", chosen, info(index=0, count=3, root=npz), seed)
        return [
            {row.tobytes() for row in part.inputs.values}
            for part in (data.train, data.validation, data.test)
        ]

    for split in ("random", "blocks"):
        train, validation, test = rows(split, 1)
        assert not (train & validation)
        assert not (train & test)
        assert not (validation & test)
        assert rows(split, 1) == [train, validation, test]
    assert rows("random", 1) != rows("random", 2)
    assert rows("blocks", 1) == rows("blocks", 2)


def test_a_deployed_site_names_its_subject(npz, options, info) -> None:
    here = info(root=npz, site="ward-4", task="subject-07")
    data = load("har", options("har"), here, seed=1)
    assert (data.site, data.task) == ("ward-4", "subject-07")
    with pytest.raises(UserError, match="no task 'subject-08' here; there is 'subject-0"):
        load("har", options("har"), info(root=npz, task="subject-08"), seed=1)
    with pytest.raises(UserError, match="name its own in the node config"):
        load("har", options("har"), info(root=npz), seed=1)


def test_a_folder_with_one_subject_needs_no_name(tmp_path, options, info) -> None:
    arrays = {name: array[:60] for name, array in har_recordings().items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    assert load("har", options("har"), info(root=tmp_path), seed=1).site == "subject-01"


def test_more_sites_than_subjects_is_reported(npz, options, info) -> None:
    with pytest.raises(UserError, match="--federation-config 'num-supernodes=3'"):
        load("har", options("har"), info(index=0, count=10, root=npz), seed=1)
    chosen = options("har", subjects=[7, 3])
    assert load("har", chosen, info(index=1, count=2, root=npz), seed=1).site == "subject-07"
    with pytest.raises(UserError, match="no subject 5"):
        load("har", options("har", subjects=[5]), info(index=0, count=1, root=npz), seed=1)


def test_the_official_split_is_rejected_with_the_reason(npz, options, info) -> None:
    with pytest.raises(UserError, match="every subject wholly on one side"):
        load("har", options("har", split="official"), info(index=0, count=3, root=npz), seed=1)
    with pytest.raises(UserError, match="'random' and 'blocks'"):
        load("har", options("har", split="time"), info(index=0, count=3, root=npz), seed=1)


def test_blocks_of_shuffled_rows_are_rejected(tmp_path, options, info) -> None:
    order = np.random.default_rng(0).permutation(60)
    np.savez(tmp_path / "har.npz", **{name: a[:60][order] for name, a in har_recordings().items()})
    with pytest.raises(UserError, match="not in order of time"):
        load("har", options("har", split="blocks"), info(root=tmp_path), seed=1)


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


def test_the_published_data(real, options, info) -> None:
    path = real("har.npz")
    sizes = []
    for index in range(30):
        data = load("har", options("har"), info(index=index, count=30, root=path), seed=1)
        assert data.site == f"subject-{index + 1:02d}"
        sizes.append(len(data.train) + len(data.validation) + len(data.test))
        assert set(data.test.labels.tolist()) == set(range(6))
    assert sum(sizes) == 10299  # all windows of the published data
    assert sizes[0] == 347  # subject 1, as published


def test_all_subjects_can_have_one_task(npz, options, info) -> None:
    chosen = options("har", task="activity")
    alone = options("har")
    for index in range(3):
        site = info(index=index, count=3, root=npz)
        one, own = load("har", chosen, site, seed=1), load("har", alone, site, seed=1)
        assert (one.site, one.task, one.source) == (own.site, "activity", own.task)
        assert one.train.inputs.digest() == own.train.inputs.digest()
    deployed = load("har", chosen, info(site="subject-03", root=npz), seed=1)
    assert (deployed.site, deployed.task) == ("subject-03", "activity")
    with pytest.raises(UserError, match="node-config 'site=\"subject-01\"'"):
        load("har", chosen, info(site="clinic", root=npz), seed=1)
    with pytest.raises(UserError, match=r"task 'gait' is not data.task, 'activity'"):
        load("har", chosen, info(site="clinic", task="gait", root=npz), seed=1)
    with pytest.raises(UserError, match=r"data.task: subject, or a name"):
        load("har", options("har", task=""), info(index=0, count=3, root=npz), seed=1)


def test_subjects_that_no_site_has_are_warned_of(npz, options, info) -> None:
    site = info(index=0, count=2, root=npz)
    load("har", options("har"), site, seed=1)
    (line,) = site.findings.lines()
    assert line == (
        "warning: 1 subjects belong to no site (subject-07); for all of them: --federation-config "
        "'num-supernodes=3'"
    )
