"""Real pictures as the product reads them."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import prepare
from client_app.data.pflbench.cifar import read_cifar100
from fedstrata.support.errors import UserError


def test_each_face_answers_one_question(tmp_path: Path) -> None:
    source = tmp_path / "faces.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for number in range(9):
            archive.writestr(
                f"{10 * number}_{number % 2}_{number % 5}_2017{number}.jpg.chip.jpg", b"x"
            )
        archive.writestr("61_1_20170109_no_race.jpg.chip.jpg", b"x")
    folder = prepare.utkface(source, tmp_path)
    rows = list(csv.DictReader((folder / prepare.MANIFEST).open()))
    assert len(rows) == 9
    for row in rows:
        assert len([task for task in prepare.TASKS if row[task]]) == 1
        age, gender, race = map(int, row["path"].split("_")[:3])
        assert row["gender"] in ("", prepare.GENDERS[gender])
        assert row["race"] in ("", prepare.RACES[race])
        assert row["age"] in ("", "under-20" if age < 20 else row["age"])
    asked = [next(task for task in prepare.TASKS if row[task]) for row in rows]
    assert {task: asked.count(task) for task in prepare.TASKS} == {"gender": 3, "age": 3, "race": 3}


def test_another_archive_is_unpacked_anew(tmp_path: Path) -> None:
    source = tmp_path / "faces.zip"

    def folder(**pictures: bytes) -> dict[str, bytes]:
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in pictures.items():
                archive.writestr(f"all/{name}_1_2_2017.jpg", content)
        found = prepare.utkface(source, tmp_path / "work")
        return {path.name.split("_")[0]: path.read_bytes() for path in found.rglob("*.jpg")}

    first = folder(**{"30": b"x", "31": b"y"})
    assert first == {"30": b"x", "31": b"y"}
    assert folder(**{"30": b"z", "31": b"y"}) == first  # the same names and sizes
    assert folder(**{"30": b"xx"}) == {"30": b"xx"}


def test_an_archive_that_leaves_its_folder_is_rejected(tmp_path: Path) -> None:
    source = tmp_path / "bad.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("../outside.jpg", b"x")
    with pytest.raises(UserError, match="outside"):
        prepare.pacs(source, tmp_path / "work")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        prepare.unpacked(tmp_path / "none.zip", tmp_path)


def test_pacs_is_the_only_folder_of_its_archive(tmp_path: Path) -> None:
    source = tmp_path / "pacs.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for domain in ("art", "photo"):
            archive.writestr(f"PACS/{domain}/dog/1.jpg", b"x")
    folder = prepare.pacs(source, tmp_path / "work")
    assert {path.name for path in folder.iterdir()} == {"art", "photo"}


def test_shards_are_found_in_an_archive_or_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "shards.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("inner/site-00.npz", b"x")
    folder = prepare.shards(source, tmp_path / "work")
    assert [path.name for path in folder.iterdir()] == ["site-00.npz"]
    assert prepare.shards(folder, tmp_path / "work") == folder
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no \.npz file"):
        prepare.shards(tmp_path / "empty", tmp_path)


def test_one_of_so_many_examples_of_each_shard_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "shards"
    source.mkdir()
    arrays = {f"{split}_labels": np.arange(12) for split in ("train", "val", "test")}
    np.savez(source / "site-00.npz", **arrays)
    assert prepare.shards(source, tmp_path) == source
    thinned = prepare.shards(source, tmp_path, 5)
    with np.load(thinned / "site-00.npz") as shard:
        assert [shard[name].tolist() for name in sorted(arrays)] == [[2, 7]] * 3
    with pytest.raises(UserError, match="leaves train_labels empty; keep more"):
        prepare.shards(source, tmp_path, 30)


def test_made_up_pictures_have_the_format_of_cifar_100(tmp_path: Path) -> None:
    made = read_cifar100(prepare.made_up_cifar100(tmp_path / "made-up"), 10**8)
    assert len(made.labels) == 2000
    assert set(made.labels) == set(range(100))
