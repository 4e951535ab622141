"""MedMNIST files: one a site, one a task, or one for all, checked before anything is trained."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_app.data import medmnist
from client_app.data.registry import load
from client_app.data.site_info import SiteInfo
from fedstrata.support.errors import UserError
from tests.helpers.data_files import medmnist_arrays


@pytest.fixture
def folder(tmp_path) -> Path:
    np.savez_compressed(tmp_path / "blood.npz", **medmnist_arrays(kinds=4))
    np.savez_compressed(tmp_path / "skin.npz", **medmnist_arrays(size=9, kinds=2))
    return tmp_path


def values(split) -> set[bytes]:
    return {picture.tobytes() for picture in split.inputs.values}


def test_a_test_example_has_its_number_in_the_files_own_array(folder, options, info) -> None:
    split = options("medmnist", file="skin.npz")
    data = load("medmnist", split, info(index=1, count=2, root=folder), seed=1)
    places = data.test_places
    assert set(places.files) == {folder / "skin.npz"}
    stored = np.load(folder / "skin.npz")["test_images"]
    assert np.array_equal(data.test.inputs.values[..., 0], stored[list(places.rows)])


def test_a_card_does_not_say_that_pictures_are_cut_which_are_squeezed(
    tmp_path, options, info
) -> None:
    arrays = medmnist_arrays()
    arrays |= {n: a[:, :6] for n, a in arrays.items() if n.endswith("images")}
    np.savez_compressed(tmp_path / "flat.npz", **arrays)
    data = load("medmnist", options("medmnist", size=8), info(root=tmp_path), seed=1)
    assert data.input_shape[1:] == (8, 8)
    assert data.preprocessing is None


def test_it_is_said_which_file_a_site_has_and_how_large_its_pictures_are(
    folder, options, info
) -> None:
    site = info(index=1, count=2, root=folder)
    data = load("medmnist", options("medmnist", size=6), site, seed=1)
    assert data.source == sorted(path.stem for path in folder.glob("*.npz"))[1] == data.task
    assert site.findings.sizes is not None
    assert (site.findings.sizes.smallest, site.findings.sizes.after) == ((9, 9), (6, 6))
    sites = {f"site-{number:02d}": "skin.npz" for number in range(2)}
    chosen = options("medmnist", files=sites, task="digit", classes={"digit": list("abc")})
    assert load("medmnist", chosen, info(1, 2, folder), seed=1).source == "skin"


def test_the_files_of_a_folder_are_tasks_and_sites_share_them(folder, options, info) -> None:
    sites_data = [
        load("medmnist", options("medmnist"), info(index=index, count=5, root=folder), seed=1)
        for index in range(5)
    ]
    assert [data.task for data in sites_data] == ["blood", "skin"] * 2 + ["blood"]
    assert [data.site for data in sites_data] == [f"site-0{index}" for index in range(5)]
    blood = sites_data[::2]
    for name, many in (("train", 40), ("validation", 10), ("test", 20)):
        values_of_each = [values(getattr(data, name)) for data in blood]
        assert sum(map(len, values_of_each)) == len(set().union(*values_of_each)) == many
    assert blood[0].classes == ("0", "1", "2", "3")
    assert blood[0].input_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("key", "value"), [("file", "blood.npz"), ("files", {"site": "blood.npz"})]
)
def test_a_file_in_a_file_is_reported(folder, options, info, key, value) -> None:
    chosen = options("medmnist", **{key: value})
    with pytest.raises(UserError, match=f"data-root is a file, and data.{key} names"):
        load("medmnist", chosen, info(root=folder / "skin.npz"), seed=1)


def test_a_deployed_site_has_a_whole_file(folder, options, info) -> None:
    by_task = load("medmnist", options("medmnist"), info(root=folder, task="skin"), seed=1)
    by_file = load("medmnist", options("medmnist", file="skin.npz"), info(root=folder), seed=1)
    alone = load("medmnist", options("medmnist"), info(root=folder / "skin.npz"), seed=1)
    for data in (by_task, by_file, alone):
        assert data.task == "skin"
        assert len(data.train) == 40
        assert data.test.labels.tolist() == [0, 1] * 10
    with pytest.raises(UserError, match="2 npz files: name this site's in its node config"):
        load("medmnist", options("medmnist"), info(root=folder), seed=1)
    with pytest.raises(UserError, match=r"2 npz files: name each site's in data\.files"):
        load("medmnist", options("medmnist", task="skin"), info(root=folder), seed=1)
    for task in ("brain", "../blood", "/etc/passwd"):
        with pytest.raises(UserError, match="this site's task"):
            load("medmnist", options("medmnist"), info(root=folder, task=task), seed=1)


def test_files_can_be_assigned_to_sites(folder, options, info) -> None:
    files = {"north": "blood.npz", "south": "skin.npz", "west": "skin.npz"}
    chosen = options("medmnist", files=files)
    tasks = {}
    for index, site in enumerate(files):
        data = load("medmnist", chosen, info(index, 3, folder, site=site), seed=1)
        tasks[data.site] = (data.task, len(data.train))
    assert tasks["north"] == ("blood", 40)
    assert tasks["south"][0] == tasks["west"][0] == "skin"
    assert tasks["south"][1] + tasks["west"][1] == 40
    with pytest.raises(UserError, match="no site 'east'; there is 'west'"):
        load("medmnist", chosen, info(root=folder, site="east"), seed=1)


def test_gray_becomes_three_channels_and_color_is_never_dropped(tmp_path, options, info) -> None:
    np.savez(tmp_path / "gray.npz", **medmnist_arrays())
    np.savez(tmp_path / "color.npz", **medmnist_arrays(color=True))
    three = {"channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    data = load("medmnist", options("medmnist", **three), info(root=tmp_path, task="gray"), 1)
    batch = data.train.inputs.batch(np.arange(4))
    assert batch.shape == (4, 3, 8, 8)
    assert (batch[:, 0] == batch[:, 2]).all()
    assert data.input_shape == (3, 8, 8)
    load("medmnist", options("medmnist", **three), info(root=tmp_path, task="color"), seed=1)
    with pytest.raises(UserError, match=r"in color; use data\.channels=3"):
        load("medmnist", options("medmnist"), info(root=tmp_path, task="color"), seed=1)


@pytest.mark.parametrize("color", [False, True])
def test_pictures_are_scaled_for_networks_that_want_larger_ones(
    tmp_path, options, info, color
) -> None:
    np.savez(tmp_path / "skin.npz", **medmnist_arrays(color=color))
    chosen = options("medmnist", size=16, channels=3, mean=[0.5] * 3, std=[0.5] * 3)
    data = load("medmnist", chosen, info(root=tmp_path), seed=1)
    assert data.input_shape == (3, 16, 16)
    assert data.train.inputs.batch(np.arange(2)).shape == (2, 3, 16, 16)
    small = medmnist_arrays(color=color)["train_images"][0].reshape(8, 8, -1)
    wide = data.train.inputs.values[0]
    assert abs(wide.mean(axis=(0, 1)) - small.mean(axis=(0, 1))).max() < 12  # the same picture
    same = options("medmnist", size=8, channels=3, mean=[0.5] * 3, std=[0.5] * 3)
    kept = load("medmnist", same, info(root=tmp_path), seed=1).train.inputs.values
    assert np.array_equal(kept[0], np.broadcast_to(small, (8, 8, 3)))


def test_sites_of_few_classes_can_be_measured_on_everything(folder, options, info) -> None:
    chosen = options("medmnist", file="skin.npz", measure_on_all=True)
    chosen["site_split"] |= {"scheme": "pathological", "classes_per_site": 1}
    for index in range(2):
        data = load("medmnist", chosen, info(index=index, count=2, root=folder), seed=1)
        assert len(set(data.train.labels)) == 1
        assert len(data.train) < 40
        assert (len(data.validation), len(data.test)) == (10, 20)


def test_class_names_are_configured_for_each_task(folder, options, info) -> None:
    def classes(**named):
        chosen = options("medmnist", classes=named)
        return load("medmnist", chosen, info(root=folder, task="skin"), seed=1).classes

    assert classes(skin=["well", "ill", "unknown"]) == ("well", "ill", "unknown")
    for named, message in [
        ({"skins": ["a", "b"]}, "no task 'skin'"),
        ({"skin": ["a"]}, "two classes or more"),
        ({"skin": ["a", "a"]}, "each once"),
    ]:
        with pytest.raises(UserError, match=message):
            classes(**named)
    chosen = options("medmnist", classes={"blood": ["a", "b"]})
    with pytest.raises(UserError, match=r"blood\.npz: has label 3.*ends at 1 \('b'\)"):
        load("medmnist", chosen, info(root=folder, task="blood"), seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_labels": np.zeros((40, 14), np.uint8)},
            "val_labels has 1 labels per picture, and train_labels 14",
        ),
        ({"train_labels": np.zeros((39, 1), np.uint8)}, "40 train_images but 39"),
        ({"val_labels": np.full(10, -1)}, "val_labels: row 1 is -1"),
        ({"test_labels": np.full(20, 0.5)}, "test_labels: row 1 is 0.5"),
        ({"train_images": np.zeros((40, 8, 8))}, "float64, not uint8"),
        ({"train_images": np.zeros((40, 8, 8, 8), np.uint8)}, "not volumes"),
        ({"train_images": np.zeros((40, 64), np.uint8)}, "only flat pictures"),
        ({"train_images": np.zeros((40, 0, 8), np.uint8)}, "only flat pictures"),
        ({"test_images": np.zeros((20, 9, 9), np.uint8)}, "another size"),
        ({"train_images": np.array([None] * 40)}, "could run code"),
        (
            {"val_images": np.zeros((0, 8, 8), np.uint8), "val_labels": np.zeros((0, 1), np.uint8)},
            "no examples in validation",
        ),
    ],
)
def test_a_wrong_file_is_reported(tmp_path, options, info, changes, message) -> None:
    np.savez(tmp_path / "blood.npz", **medmnist_arrays(**changes))
    with pytest.raises(UserError, match=message):
        load("medmnist", options("medmnist"), info(root=tmp_path), seed=1)


def test_pictures_that_would_be_too_large_are_reported_before_memory_is_taken(
    folder, options, info, monkeypatch
) -> None:
    monkeypatch.setattr(medmnist, "_split", lambda *_: pytest.fail("made"))
    chosen = options("medmnist", size=512, largest_mb=1)
    with pytest.raises(UserError, match=r"would take \d+ MB with data\.size=512"):
        load("medmnist", chosen, info(index=0, count=2, root=folder), seed=1)


def test_wrong_options_are_reported(folder, options, info) -> None:
    with pytest.raises(UserError, match=r"data\.size: 0 is not between"):
        load("medmnist", options("medmnist", size=0), info(index=0, count=2, root=folder), seed=1)

    def by_column(scheme: str) -> dict[str, object]:
        return {**options("medmnist")["site_split"], "scheme": scheme, "column": "ward"}

    for changes, message in [
        ({"channels": 2}, "1 or 3"),
        ({"mean": [0.5, 0.5]}, r"data\.mean: 1 numbers"),
        ({"std": [0.0]}, "above 0"),
        ({"file": "a.npz", "files": {"a": "b"}}, "give one of them"),
        ({"file": "lung.npz"}, "no file 'lung.npz'"),
        ({"file": "../blood.npz"}, "without '..'"),
        ({"largest_mb": 0}, "would take"),
        ({"site_split": by_column("natural")}, "no column for 'natural'"),
        ({"site_split": by_column("domain")}, "no column for 'domain'"),
    ]:
        with pytest.raises(UserError, match=message):
            load("medmnist", options("medmnist", **changes), info(root=folder, task="blood"), 1)


def test_a_link_out_of_the_folder_is_rejected(folder, tmp_path_factory, options, info) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "skin.npz").symlink_to(folder / "skin.npz")
    with pytest.raises(UserError, match="a link that leaves"):
        load("medmnist", options("medmnist"), info(root=elsewhere), seed=1)


def test_an_empty_folder_is_reported(tmp_path, options, info) -> None:
    with pytest.raises(UserError, match=r"has no \.npz file"):
        load("medmnist", options("medmnist"), info(root=tmp_path), seed=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 255))
def test_damage_is_a_user_error(folder, options, cut, where, value) -> None:
    content = bytearray((folder / "skin.npz").read_bytes())
    content[int(where * (len(content) - 1))] = value
    damaged = folder / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / "skin.npz").write_bytes(bytes(content[: int(cut * len(content)) + 1]))
    with contextlib.suppress(UserError):
        load("medmnist", options("medmnist"), SiteInfo(None, None, None, None, damaged), seed=1)


def test_the_published_pneumonia_file(real, options, info) -> None:
    root = real("pneumoniamnist.npz")
    whole = load("medmnist", options("medmnist"), info(root=root), seed=1)
    # https://medmnist.com: 5,856 pictures in 4,708, 524 and 624
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (4708, 524, 624)
    assert np.bincount(whole.train.labels).tolist() == [1214, 3494]
    assert whole.task == "pneumoniamnist"
    shares = [
        load("medmnist", options("medmnist"), info(index=i, count=3, root=root), seed=1)
        for i in range(3)
    ]
    assert sum(len(data.train) for data in shares) == 4708


# -- several labels, numbers, and several files of one task ------------------------------------------


def labels(width: int, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """Return arrays with so many labels of 0 and 1 per picture, as in ChestMNIST."""
    generator = np.random.default_rng(3)
    sizes = {"train": 40, "val": 10, "test": 20}
    made = {
        f"{split}_labels": generator.integers(0, 2, (many, width)).astype(np.uint8)
        for split, many in sizes.items()
    }
    return medmnist_arrays(**{**made, **changes})


def test_fourteen_labels_per_picture_are_labels(tmp_path, options, info) -> None:
    arrays = labels(14)
    np.savez(tmp_path / "chestmnist.npz", **arrays)
    data = load("medmnist", options("medmnist"), info(root=tmp_path), seed=1)
    assert data.kind.name == "labels"
    assert data.classes == tuple(map(str, range(14)))
    assert data.train.labels.dtype == np.float32
    assert np.array_equal(data.train.labels, arrays["train_labels"])
    names = [f"finding {number}" for number in range(14)]
    chosen = options("medmnist", classes={"chestmnist": names})
    assert load("medmnist", chosen, info(root=tmp_path), seed=1).classes == tuple(names)
    with pytest.raises(UserError, match=r"14 labels per picture, .* not 2"):
        load(
            "medmnist",
            options("medmnist", classes={"chestmnist": ["a", "b"]}),
            info(root=tmp_path),
            1,
        )


def test_sites_share_a_file_of_labels(tmp_path, options, info) -> None:
    np.savez(tmp_path / "chestmnist.npz", **labels(3))
    parts = [load("medmnist", options("medmnist"), info(i, 2, tmp_path), 1) for i in range(2)]
    assert [len(part.train) + len(part.validation) + len(part.test) for part in parts] == [35, 35]
    skewed = options(
        "medmnist", site_split={**options("medmnist")["site_split"], "scheme": "dirichlet"}
    )
    with pytest.raises(UserError, match=r"scheme=dirichlet: goes by classes, .*scheme=iid"):
        load("medmnist", skewed, info(0, 2, tmp_path), 1)


@pytest.mark.parametrize("value", [2, 255])
def test_a_label_that_is_not_0_or_1_is_reported(tmp_path, options, info, value) -> None:
    np.savez(tmp_path / "chest.npz", **labels(4, val_labels=np.full((10, 4), value, np.uint8)))
    with pytest.raises(UserError, match=f"val_labels: row 1 has {value}.0, not 0, 1 or NaN"):
        load("medmnist", options("medmnist"), info(root=tmp_path), seed=1)


def leaking(folder: Path) -> Path:
    """Write a file whose first test picture is one of training, with another label."""
    arrays = medmnist_arrays(kinds=2)
    arrays["test_images"][0] = arrays["train_images"][5]
    np.savez(folder / "skin.npz", **arrays)
    return folder


def test_copies_in_two_splits_are_said_refused_or_dropped(tmp_path, options, info) -> None:
    site = info(root=leaking(tmp_path))
    kept = load("medmnist", options("medmnist"), site, seed=1)
    assert [len(kept.train), len(kept.test)] == [40, 20]
    assert [warning.whole for warning in site.findings.warnings] == [
        "1 pictures stand in two splits (data.duplicates=keep)",
        "1 pictures have two labels (data.duplicates=keep)",
    ]
    with pytest.raises(UserError, match=r"skin.npz, train_images, number 5 \(train\) = .*test_im"):
        load("medmnist", options("medmnist", duplicates="refuse"), site, seed=1)
    dropped = load("medmnist", options("medmnist", duplicates="drop"), site, seed=1)
    assert [len(dropped.train), len(dropped.test)] == [39, 19]  # of two labels, neither is used
    assert dropped.test_places.rows == tuple(range(1, 20))
    with pytest.raises(UserError, match=r"data\.duplicates: refuse, drop, keep, not 'no'"):
        load("medmnist", options("medmnist", duplicates="no"), site, seed=1)


def test_masks_and_absent_classes_are_said(tmp_path, options, info) -> None:
    arrays = medmnist_arrays(kinds=1)
    arrays |= {n: a // 128 for n, a in arrays.items() if n.endswith("images")}
    np.savez(tmp_path / "skin.npz", **arrays)
    site = info(root=tmp_path)
    load("medmnist", options("medmnist", classes={"skin": ["well", "ill"]}), site, seed=1)
    assert any("(they go from 0 to 1" in warning.whole for warning in site.findings.warnings)
    assert [note.whole for note in site.findings.notes] == ["no example here of 'ill'"]


def test_grades_are_classes_or_a_number(tmp_path, options, info) -> None:
    np.savez(tmp_path / "retinamnist.npz", **medmnist_arrays(kinds=5))
    plain = load("medmnist", options("medmnist"), info(root=tmp_path), seed=1)
    assert (plain.kind.name, plain.classes) == ("classes", ("0", "1", "2", "3", "4"))
    entry = {"kind": "number", "column": "grade", "mean": 2, "std": 1.4}
    chosen = options("medmnist", tasks={"retinamnist": entry})
    graded = load("medmnist", chosen, info(root=tmp_path), seed=1)
    assert (graded.kind.name, graded.kind.mean, graded.classes) == ("number", (2.0,), ("grade",))
    assert graded.train.labels.shape == (40, 1)
    assert np.array_equal(graded.train.labels[:, 0], plain.train.labels)


@pytest.mark.parametrize(("task", "known"), [(None, "'north', 'south'"), ("digit", "'digit'")])
def test_a_description_of_no_task_is_reported(hospitals, options, info, task, known) -> None:
    for name in ("north", "digit"):
        chosen = options("medmnist", task=task, tasks={name: {"kind": "number"}})
        if name in known:
            load("medmnist", chosen, info(1, 2, hospitals), seed=1)
            continue
        with pytest.raises(UserError, match=rf"data\.tasks: no task '{name}' here; .*{known}"):
            load("medmnist", chosen, info(1, 2, hospitals), seed=1)


def test_numbers_that_are_not_finite_are_reported(tmp_path, options, info) -> None:
    ages = np.full((40, 1), np.inf)
    np.savez(tmp_path / "age.npz", **medmnist_arrays(train_labels=ages))
    chosen = options("medmnist", tasks={"age": {"kind": "number"}})
    with pytest.raises(UserError, match=r"train_labels: row 1 has inf, not a finite number or NaN"):
        load("medmnist", chosen, info(root=tmp_path), seed=1)


@pytest.fixture
def hospitals(tmp_path) -> Path:
    """Return a folder with the digits of two hospitals: 0 to 2, and 0 to 4."""
    np.savez(tmp_path / "north.npz", **medmnist_arrays(kinds=3))
    np.savez(tmp_path / "south.npz", **medmnist_arrays(size=8, kinds=5))
    return tmp_path


def test_several_files_are_one_task_with_the_classes_of_all(hospitals, options, info) -> None:
    chosen = options("medmnist", task="digit")
    sites = [load("medmnist", chosen, info(i, 4, hospitals), 1) for i in range(4)]
    assert {site.task for site in sites} == {"digit"}
    assert {site.classes for site in sites} == {("0", "1", "2", "3", "4")}
    # Site 0 and 2 share the first file, 1 and 3 the second.
    assert [int(site.train.labels.max()) for site in sites] == [2, 4, 2, 4]
    assigned = options(
        "medmnist", task="digit", files={"site-00": "south.npz", "site-01": "north.npz"}
    )
    first = load("medmnist", assigned, info(0, 2, hospitals), 1)
    assert (first.task, int(first.train.labels.max())) == ("digit", 4)


def test_the_one_task_of_all_files_may_have_names(hospitals, options, info) -> None:
    names = ["zero", "one", "two", "three", "four"]
    chosen = options("medmnist", task="digit", classes={"digit": names})
    assert load("medmnist", chosen, info(0, 2, hospitals), 1).classes == tuple(names)
    with pytest.raises(UserError, match=r"this site's task 'letter' is not data\.task=digit"):
        load("medmnist", chosen, info(0, 2, hospitals, task="letter"), 1)


@pytest.mark.parametrize("width", [1, 3])
def test_a_deployed_site_sends_configured_names_only(tmp_path, options, width) -> None:
    arrays = medmnist_arrays() if width == 1 else labels(width)
    np.savez(tmp_path / "digit.npz", **arrays)
    site = SiteInfo("north", None, None, None, tmp_path, deployed=True)
    with pytest.raises(UserError, match=r"data\.classes=null: .*data\.classes=\{digit:"):
        load("medmnist", options("medmnist"), site, 1)
    named = options("medmnist", classes={"digit": ["a", "b", "c"]})
    assert load("medmnist", named, site, 1).classes == ("a", "b", "c")
