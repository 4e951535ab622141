"""Folders of pictures become splits and shares; a bad picture is reported before training."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from client_app.data import images, remembered
from client_app.data.kept_listing import FOLDER
from client_app.data.registry import load
from client_app.data.site_info import SiteInfo
from fedstrata.support.errors import UserError
from tests.helpers.data_files import fill
from tests.helpers.medical import dicom

SMALL = {"size": 8}


@pytest.fixture
def manifest(folders) -> Path:
    rows = ["path,animal,age,ward"]
    for path in sorted(folders.rglob("*.*")):
        number = int(path.stem)
        age = ("young", "old", "")[number % 3]
        rows.append(f"{path.relative_to(folders)},{path.parent.name},{age},w{number % 2}")
    (folders / "all.csv").write_text("\n".join(rows), encoding="utf-8")
    return folders


def files(data) -> list[set[str]]:
    return [
        {path.name for path in split.inputs.paths}
        for split in (data.train, data.validation, data.test)
    ]


def test_class_folders_become_a_task(folders, options, info) -> None:
    data = load("images", options("images", **SMALL), info(root=folders, site="north"), seed=1)
    assert (data.site, data.task) == ("north", "label")
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (3, 8, 8)
    assert [
        np.bincount(part.labels).tolist() for part in (data.train, data.validation, data.test)
    ] == [[14, 21], [2, 3], [4, 6]]  # 20 cats and 30 dogs: 10 % and 20 % of each
    assert data.train.inputs.batch(np.arange(5)).shape == (5, 3, 8, 8)
    for path, label in zip(data.test.inputs.paths, data.test.labels, strict=True):
        assert path.parent.name == data.classes[label]


def test_a_picture_that_may_not_be_opened_is_damaged(folders, options, info, monkeypatch) -> None:
    opened = Path.open

    def guarded(path: Path, *mode: object, **how: object) -> object:
        if path.name == "002.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *mode, **how)

    shutil.copy(folders / "cat" / "000.png", folders / "cat" / "002.png")  # of one size
    monkeypatch.setattr(Path, "open", guarded)
    with pytest.raises(UserError, match=r"002\.png: cannot be read \(Permission denied\)"):
        load("images", options("images", **SMALL), info(root=folders), seed=1)
    site = info(root=folders)
    load("images", options("images", unreadable="skip", **SMALL), site, seed=1)
    assert site.findings.left_out == {"unreadable": 1}


@pytest.mark.parametrize("domains", [False, True])
def test_class_folders_that_are_all_empty_are_reported(
    tmp_path, options, info, domains: bool
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photo" / name).mkdir(parents=True)
    root = tmp_path if domains else tmp_path / "photo"
    chosen = options("images", domains=domains, classes={"label": ["cat", "dog"]}, **SMALL)
    with pytest.raises(UserError, match="no pictures in any class folder"):
        load("images", chosen, info(root=root), seed=1)


def test_splits_are_disjoint_cover_everything_and_follow_the_seed(folders, options, info) -> None:
    def drawn(seed: int) -> list[set[str]]:
        return files(load("images", options("images", **SMALL), info(root=folders), seed))

    first = drawn(1)
    assert sum(map(len, first)) == len(set().union(*first)) == 50
    assert drawn(1) == first
    assert drawn(2) != first


def test_copies_of_a_picture_stay_in_one_split(folders, options, info) -> None:
    for path in sorted((folders / "cat").iterdir()):
        shutil.copy(path, folders / "cat" / f"copy-of-{path.name}")
    for seed in range(5):
        data = load("images", options("images", **SMALL), info(root=folders), seed)
        sides = [set(split.inputs.digests) for split in (data.train, data.validation, data.test)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]


def test_given_splits_are_kept_and_the_missing_one_is_drawn(tmp_path, options, info) -> None:
    for split, first, many in (("train", 0, 20), ("val", 40, 4), ("test", 80, 6)):
        fill(tmp_path / split / "cat", first, many)
        fill(tmp_path / split / "dog", first + 20, many)
    data = load("images", options("images", **SMALL), info(root=tmp_path), seed=1)
    for part, name in ((data.train, "train"), (data.validation, "val"), (data.test, "test")):
        assert {path.parent.parent.name for path in part.inputs.paths} == {name}
    assert [len(data.train), len(data.validation), len(data.test)] == [40, 8, 12]
    shutil.rmtree(tmp_path / "val")
    data = load("images", options("images", **SMALL), info(root=tmp_path), seed=1)
    assert [len(data.train), len(data.validation), len(data.test)] == [36, 4, 12]
    assert {path.parent.parent.name for path in data.validation.inputs.paths} == {"train"}


def test_a_manifest_may_have_several_tasks(manifest, options, info) -> None:
    chosen = options("images", **SMALL, manifest="all.csv", tasks=["animal", "age"])
    sites = [
        load("images", chosen, info(index=index, count=4, root=manifest), seed=1)
        for index in range(4)
    ]
    assert [data.task for data in sites] == ["animal", "age"] * 2
    assert sites[1].classes == ("old", "young")
    animals = [set().union(*files(data)) for data in sites[::2]]
    ages = [set().union(*files(data)) for data in sites[1::2]]
    assert not animals[0] & animals[1]
    assert len(animals[0] | animals[1]) == 50
    assert not ages[0] & ages[1]
    assert len(ages[0] | ages[1]) == 34  # a third have an empty cell, and are left out
    deployed = load("images", chosen, info(root=manifest, task="age"), seed=1)
    assert sum(map(len, files(deployed))) == 34
    with pytest.raises(UserError, match="name this site's own in its node config"):
        load("images", chosen, info(root=manifest), seed=1)


def test_a_manifest_can_give_splits_and_wards(manifest, options, info) -> None:
    lines = (manifest / "all.csv").read_text().splitlines()
    given = ["train", "train", "train", "validation", "test"]
    rows = [f"{line},{given[number % 5]}" for number, line in enumerate(lines[1:])]
    (manifest / "all.csv").write_text("\n".join([lines[0] + ",split", *rows]), encoding="utf-8-sig")
    natural = {**options("images")["site_split"], "scheme": "natural", "column": "ward"}
    chosen = options("images", **SMALL, manifest="all.csv", task="animal", site_split=natural)
    for index in range(2):
        data = load("images", chosen, info(index=index, count=2, root=manifest), seed=1)
        assert [len(data.train), len(data.validation), len(data.test)] == [15, 5, 5]
        assert {int(name[:3]) % 2 for part in files(data) for name in part} == {index}


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "pathological", "linear"])
def test_sites_of_a_simulation_share_a_folder(folders, options, info, scheme) -> None:
    site_split = {
        **options("images")["site_split"],
        "scheme": scheme,
        "alpha": 5.0,
        "classes_per_site": 1,
    }
    chosen = options("images", **SMALL, site_split=site_split)
    names_of_sites = [
        set().union(*files(load("images", chosen, info(i, 3, folders), seed=1))) for i in range(3)
    ]
    assert len(set().union(*names_of_sites)) == sum(map(len, names_of_sites)) == 50


def by_domain(options, scheme: str = "domain", **changes: object) -> dict[str, object]:
    site_split = {**options("images")["site_split"], "scheme": scheme}
    return options("images", **SMALL, domains=True, site_split=site_split, **changes)


def test_folders_of_domains_are_split_by_domain(domains, options, info) -> None:
    sites = [
        load("images", by_domain(options), info(index=i, count=5, root=domains), seed=1)
        for i in range(5)
    ]
    paths = [{p for s in (d.train, d.validation, d.test) for p in s.inputs.paths} for d in sites]
    assert [{path.parent.parent.name for path in one} for one in paths] == [
        {"cartoon"},
        {"photo"},
        {"sketch"},
        {"cartoon"},
        {"photo"},
    ]
    assert [len(one) for one in paths] == [15, 15, 30, 15, 15]
    assert len(set().union(*paths)) == 90
    assert {data.classes for data in sites} == {("dog", "house")}
    for i, domain in enumerate(("cartoon", "photo", "sketch")):
        natural = by_domain(options, "natural")
        data = load("images", natural, info(index=i, count=3, root=domains), seed=1)
        assert {path.parent.parent.name for path in data.train.inputs.paths} == {domain}
    with pytest.raises(UserError, match=r"has 3 values for 4 sites.*scheme=domain"):
        load("images", by_domain(options, "natural"), info(0, 4, domains), seed=1)
    alone = load("images", by_domain(options), info(root=domains, site="north"), seed=1)
    assert len(alone.train) + len(alone.validation) + len(alone.test) == 90


def test_several_sites_may_share_a_value_of_a_column(manifest, options, info) -> None:
    site_split = {**options("images")["site_split"], "scheme": "domain", "column": "ward"}
    chosen = options("images", **SMALL, manifest="all.csv", task="animal", site_split=site_split)
    names_of_sites = [
        set().union(*files(load("images", chosen, info(i, 4, manifest), seed=1))) for i in range(4)
    ]
    assert len(set().union(*names_of_sites)) == sum(map(len, names_of_sites)) == 50
    for index, names in enumerate(names_of_sites):
        assert {int(name[:3]) % 2 for name in names} == {index % 2}


def test_domains_may_have_split_folders(domains, options, info) -> None:
    for number, domain in enumerate(("sketch", "photo", "cartoon")):
        (domains / domain / "train").mkdir()
        for more, kind in enumerate(("dog", "house")):
            (domains / domain / kind).rename(domains / domain / "train" / kind)
            fill(domains / domain / "test" / kind, 300 + 20 * number + 10 * more, 3)
    data = load("images", by_domain(options), info(index=1, count=3, root=domains), seed=1)
    assert len(data.test) == 6
    for part, name in ((data.train, "train"), (data.validation, "train"), (data.test, "test")):
        assert {path.parts[-4:-2] for path in part.inputs.paths} == {("photo", name)}


def test_a_bad_picture_is_reported_before_training(folders, options, info) -> None:
    (folders / "cat" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.png: not a readable picture"):
        load("images", options("images", **SMALL), info(root=folders), seed=1)


def test_a_manifest_outside_or_missing_is_reported(folders, options, info) -> None:
    for name in ("none.csv", "../all.csv", "/etc/passwd"):
        with pytest.raises(UserError, match=r"data\.manifest"):
            load("images", options("images", manifest=name), info(root=folders), seed=1)


def test_options_out_of_range_are_reported(folders, options, info) -> None:
    unnamed = {**options("images")["site_split"], "scheme": "domain"}
    by_ward = {**unnamed, "column": "ward"}
    for changes, message in [
        ({"size": 0}, r"data\.size"),
        ({"mean": [0.5]}, r"data\.mean: 3 numbers"),
        ({"std": [1.0, 1.0, 0.0]}, r"data\.std"),
        ({"test_fraction": 0.95}, "leaves nothing to train on"),
        ({"memory_mb": -1}, r"data\.memory_mb"),
        ({"tasks": ["age"]}, "need a manifest"),
        ({"task": None}, r"data\.task: name the task"),
        ({"domains": True, "manifest": "all.csv"}, r"data\.domains: is for folders"),
        ({"domains": True, "site_split": by_ward}, r"data\.site_split\.column=null"),
        ({"manifest": "all.csv", "site_split": unnamed}, r"data\.site_split\.column: name"),
    ]:
        with pytest.raises(UserError, match=message):
            load("images", options("images", **changes), info(root=folders), seed=1)
    with pytest.raises(UserError, match="must be a folder"):
        load("images", options("images"), info(root=folders / "cat" / "000.png"), seed=1)


def test_the_same_bytes_in_training_and_test_are_refused_or_dropped(
    tmp_path, options, info
) -> None:
    for split, first in (("train", 0), ("test", 0)):
        fill(tmp_path / split / "cat", first, 10)
        fill(tmp_path / split / "dog", first + 20, 20)
    fill(tmp_path / "train" / "cat", 60, 20)
    fill(tmp_path / "train" / "dog", 80, 20)
    with pytest.raises(UserError, match=r"same content stand in two splits \(30 times\)"):
        load("images", options("images", **SMALL), info(root=tmp_path), seed=1)
    for policy, train in (("drop", 36), ("keep", 63)):
        chosen = options("images", **SMALL, duplicates=policy)
        data = load("images", chosen, info(root=tmp_path), seed=1)
        assert (len(data.train), len(data.test)) == (train, 30)


@pytest.mark.parametrize("by", [{"group": "ward"}, {"group_pattern": "([0-9])[0-9]*[.]"}])
def test_a_group_stays_on_one_side(manifest, options, info, by) -> None:
    lines = (manifest / "all.csv").read_text().splitlines()
    rows = [line.rpartition(",")[0] + f",w{number // 5}" for number, line in enumerate(lines[1:])]
    (manifest / "all.csv").write_text("\n".join([lines[0], *rows]))
    chosen = options("images", **SMALL, manifest="all.csv", task="animal", **by)
    one = info(root=manifest)
    if "group" in by:
        data = load("images", chosen, one, seed=1)
        groups = [
            {rows[int(path.stem)].rpartition(",")[2] for path in split.inputs.paths}
            for split in (data.train, data.validation, data.test)
        ]
        assert sum(map(len, groups)) == len(set().union(*groups)) == 10
        assert one.findings.groups == {"by": "ward", "groups": 10, "on_both_sides": 0}
    else:
        with pytest.raises(UserError, match="no examples in"):  # all are one group: 0
            load("images", chosen, one, seed=1)


def test_a_column_of_a_manifest_may_be_labels_or_numbers(manifest, options, info) -> None:
    tasks = {"a": {"column": "ward", "kind": "labels"}, "b": {"column": "age", "kind": "classes"}}
    chosen = options("images", **SMALL, manifest="all.csv", tasks=tasks)
    data = load("images", chosen, info(root=manifest, task="a"), seed=1)
    assert data.kind.name == "labels"
    assert data.classes == ("w0", "w1")
    assert data.train.labels.dtype == np.float32


def test_a_simulated_site_says_which_domain_it_is(domains, options, info) -> None:
    found = [
        load("images", by_domain(options), info(index=i, count=2, root=domains), seed=1).source
        for i in range(2)
    ]
    assert found == ["cartoon", "photo"]
    one = info(index=0, count=2, root=domains)
    load("images", by_domain(options, "natural"), one, seed=1)
    assert (
        "1 of 3 values of 'the domains' belong to no site (sketch)"
        in one.findings.warnings[0].whole
    )


def test_real_pictures_of_four_domains(real, tmp_path, options, info) -> None:
    with zipfile.ZipFile(real("pacs_subset.zip")) as archive:
        names = [name for name in archive.namelist() if name.split("/")[-2] in ("dog", "horse")]
        archive.extractall(tmp_path, names)
    rows = [f"{name},{name.split('/')[2]},{name.split('/')[1]}" for name in names]
    (tmp_path / "pacs.csv").write_text("\n".join(["path,kind,domain", *rows]))
    natural = {**options("images")["site_split"], "scheme": "natural", "column": "domain"}
    chosen = options("images", size=32, manifest="pacs.csv", task="kind", site_split=natural)
    for index, domain in enumerate(("art_painting", "cartoon", "photo", "sketch")):
        data = load("images", chosen, info(index=index, count=4, root=tmp_path), seed=1)
        assert [len(data.train), len(data.validation), len(data.test)] == [84, 12, 24]
        assert {path.parts[-3] for path in data.train.inputs.paths} == {domain}


def test_real_pictures_of_four_domains_as_they_are(real, tmp_path, options, info) -> None:
    with zipfile.ZipFile(real("pacs_subset.zip")) as archive:
        names = [name for name in archive.namelist() if name.split("/")[-2] in ("dog", "horse")]
        archive.extractall(tmp_path, names)
    root = tmp_path / names[0].split("/")[0]
    chosen = {**by_domain(options), "size": 32}
    for index, domain in enumerate(("art_painting", "cartoon", "photo", "sketch")):
        data = load("images", chosen, info(index=index, count=4, root=root), seed=1)
        assert [len(data.train), len(data.validation), len(data.test)] == [84, 12, 24]
        assert {path.parts[-3] for path in data.train.inputs.paths} == {domain}


@pytest.fixture
def listings(monkeypatch) -> list[int]:
    """Return the number of pictures of each listing that is made; folders count as old."""
    made: list[int] = []
    listing = images._listing

    def noted(*given: object) -> object:
        found = listing(*given)
        made.append(len(found.names))
        return found

    monkeypatch.setattr(images, "_listing", noted)
    monkeypatch.setattr(remembered, "YOUNG", -(10**18))
    return made


def shares_of(chosen, root: Path, cache: Path, count: int = 3) -> list[list[set[str]]]:
    """Return the files of each site of a simulation, each loaded as in a process of its own."""
    found = []
    for index in range(count):
        remembered._kept.clear()
        site = SiteInfo(None, None, index, count, root, cache_dir=cache)
        found.append(files(load("images", chosen, site, seed=1)))
    return found


@pytest.mark.parametrize("by_manifest", [False, True])
def test_processes_of_a_machine_list_a_folder_once(
    manifest, options, listings, tmp_path, by_manifest: bool
) -> None:
    more = {"manifest": "all.csv", "tasks": ["animal"]} if by_manifest else {}
    chosen = options("images", **more, **SMALL)
    alone = shares_of(chosen, manifest, None)
    listings.clear()
    assert shares_of(chosen, manifest, tmp_path / "cache") == alone
    assert listings == [50]


@pytest.mark.parametrize("change", ["new", "gone", "replaced", "manifest", "option"])
def test_a_folder_that_changed_is_listed_anew(
    manifest, options, listings, tmp_path, change: str
) -> None:
    more = {"manifest": "all.csv", "tasks": ["animal"], **SMALL}
    shares_of(options("images", **more), manifest, tmp_path / "cache")
    rows = manifest / "all.csv"
    text, seen = rows.read_text(), rows.stat()
    if change == "new":
        shutil.copy(manifest / "cat" / "000.png", manifest / "cat" / "900.png")
    elif change == "replaced":  # by a link to itself, under the same name
        (manifest / "cat" / "000.png").rename(manifest / "moved")
        (manifest / "cat" / "000.png").symlink_to(manifest / "moved")
    elif change == "manifest":  # of the same size and time
        rows.write_text(text.replace("cat/000.png,cat", "cat/000.png,dog"))
        os.utime(rows, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        assert rows.stat().st_size == seen.st_size
    elif change == "gone":
        (manifest / "cat" / "000.png").unlink()
        with pytest.raises(UserError, match=r"there is no file 'cat/000\.png'"):
            shares_of(options("images", **more), manifest, tmp_path / "cache")
        return
    else:
        more["join_labels"] = True
    shares_of(options("images", **more), manifest, tmp_path / "cache")
    assert listings == [50, 50]


def test_a_deployed_site_keeps_no_name_of_a_file(folders, options, listings, tmp_path) -> None:
    chosen = options("images", classes={"label": ["cat", "dog"]}, **SMALL)
    for _ in range(2):
        site = SiteInfo("north", None, None, None, folders, deployed=True, cache_dir=tmp_path / "c")
        load("images", chosen, site, seed=1)
    assert listings == [50, 50]
    assert not (tmp_path / "c" / FOLDER).exists()


def test_dicom_files_without_an_ending_are_read_from_a_manifest_and_named_otherwise(
    tmp_path, options, info
) -> None:
    pytest.importorskip("pydicom")
    rows = ["path,label"]
    for number in range(20):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 4096, (8, 8)).astype(np.uint16)
        (folder / f"IM{number:04d}").write_bytes(dicom(pixels, bits=12))
        rows.append(f"{folder.name}/IM{number:04d},{folder.name}")
    message = r"but 10 files with other endings or none.*A DICOM file needs the ending \.dcm"
    with pytest.raises(UserError, match=message):
        load("images", options("images", **SMALL), info(root=tmp_path), seed=1)
    (tmp_path / "m.csv").write_text("\n".join(rows))
    chosen = options("images", manifest="m.csv", tasks=["label"], **SMALL)
    assert len(load("images", chosen, info(root=tmp_path), seed=1).train) == 14
