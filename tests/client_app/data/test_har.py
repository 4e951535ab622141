"""UCI HAR: a table of each subject, cut at random or along time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.har_files import ACTIVITIES, open_recordings
from client_app.data.registry import load, sums
from fedstrata.support.errors import UserError
from tests.helpers.data_files import har_recordings


@pytest.fixture
def npz(tmp_path) -> Path:
    path = tmp_path / "har.npz"
    np.savez_compressed(path, **har_recordings())
    return path


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


@pytest.mark.parametrize(
    ("chosen", "digest"),
    [
        ({}, "2610f2c55a8854aa1853f611f49ac511ffb9d4afab555f90d1df25a4c5ea1ea8"),
        ({"split": "blocks"}, "f49c470e19355e28fec0e8e896bd47fbb149f1a037343ade18df64f73b2b15ff"),
    ],
)
def test_the_splits_are_those_of_the_published_figures(npz, options, info, chosen, digest) -> None:
    site = info(index=0, count=3, root=npz)
    assert load("har", options("har", **chosen), site, seed=1).digest == digest


def test_subjects_and_a_table_of_subjects_have_the_same_rows(npz, tmp_path, options, info) -> None:
    recordings = open_recordings(npz)
    header = ["subject", "activity", "split", *(f"f{n}" for n in range(561))]
    lines, sites = [",".join(header)], range(3)
    for index in sites:
        site = info(index=index, count=3, root=npz)
        data = load("har", options("har", split="blocks"), site, seed=1)
        for split in ("train", "validation", "test"):
            part = getattr(data, split)
            for values, label in zip(part.inputs.values, part.labels, strict=True):
                cells = [data.source, ACTIVITIES[label], split, *map(str, values.tolist())]
                lines.append(",".join(cells))
    (tmp_path / "subjects.csv").write_text("\n".join(lines))
    assert len(lines) < len(recordings.labels)  # windows at the cuts are left out
    natural = {**options("tabular")["site_split"], "scheme": "natural", "column": "subject"}
    chosen = options(
        "tabular",
        site_split=natural,
        tasks=["activity"],
        classes={"activity": ACTIVITIES},
        standardize="none",
    )
    for index in sites:
        own = load("har", options("har", split="blocks"), info(index=index, count=3, root=npz), 1)
        same = load(
            "tabular", chosen, info(index=index, count=3, root=tmp_path / "subjects.csv"), 1
        )
        assert same.source == own.source
        for one, other in zip(parts_of(same), parts_of(own), strict=True):
            assert np.array_equal(one.inputs.values, other.inputs.values)
            assert np.array_equal(one.labels, other.labels)


def parts_of(data):
    return data.train, data.validation, data.test


def test_features_can_have_a_scale(npz, options, info) -> None:
    site = info(index=0, count=3, root=npz)
    own = load("har", options("har", standardize="site"), site, seed=1).train.inputs.values
    assert np.abs(own.mean(axis=0)).max() < 1e-5
    assert np.abs(own.std(axis=0) - 1).max() < 1e-5
    asked = sums("har", options("har", standardize="agreed"), site, seed=1)
    assert len(asked.inputs) == 561
    assert set(asked.inputs.count) == {42}
    assert len(asked.targets) == 0
    constants = {"mean": [0.5] * 561, "std": [2.0] * 561}
    chosen = options("har", standardize="agreed", constants=constants)
    plain = load("har", options("har"), site, seed=1).train.inputs.values
    scaled = load("har", chosen, site, seed=1).train.inputs.values
    assert np.allclose(scaled, (plain - 0.5) / 2)
    with pytest.raises(UserError, match=r"data.standardize: one of none, site, agreed"):
        load("har", options("har", standardize="mine"), site, seed=1)


def test_a_window_in_two_blocks_is_refused(tmp_path, options, info) -> None:
    arrays = {name: array[:60] for name, array in har_recordings().items()}
    arrays["x"][9] = arrays["x"][0]
    np.savez(tmp_path / "har.npz", **arrays)
    with pytest.raises(UserError, match=r"data\.duplicates"):
        load("har", options("har", split="blocks"), info(root=tmp_path), seed=1)
    kept = load("har", options("har", split="blocks", duplicates="keep"), info(root=tmp_path), 1)
    used = load("har", options("har", split="blocks", duplicates="drop"), info(root=tmp_path), 1)
    assert len(kept.train) - len(used.train) == 1
