"""Real pictures as the product reads them: UTKFace with a manifest, PACS as folders of domains."""

from __future__ import annotations

import csv
import shutil
import zipfile
from pathlib import Path

import numpy as np

from fedstrata.support.errors import UserError

GENDERS = ("male", "female")
RACES = ("white", "black", "asian", "indian", "other")
AGES = ((20, "under-20"), (40, "20-39"), (60, "40-59"), (200, "60-and-over"))
TASKS = ("gender", "age", "race")
MANIFEST = "manifest.csv"


def unpacked(source: Path, target: Path) -> Path:
    """Return the folder of ``source``: itself, or where its zip archive was unpacked.

    An archive that was unpacked before, with the same names and sizes, is not unpacked again.

    Raises
    ------
    UserError
        ``source`` is neither, or the archive has a path that leaves ``target``.
    """
    if source.is_dir():
        return source
    if not zipfile.is_zipfile(source):
        raise UserError(f"{source} is neither a folder nor a zip archive")
    done = target / ".complete"
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            if not (target / name).resolve().is_relative_to(target.resolve()):
                raise UserError(f"{source}: {name!r} would be unpacked outside of {target}")
        files = [each for each in archive.infolist() if not each.is_dir()]
        expected = {target / each.filename: each.file_size for each in files}
        if not done.exists() or _without_ours(expected, target) != _sizes(target):
            shutil.rmtree(target, ignore_errors=True)
            archive.extractall(target)
            done.touch()
    return target


def _sizes(folder: Path) -> dict[Path, int]:
    """Return the size of each file in a folder, but for what this module writes there."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return _without_ours(sizes, folder)


def _without_ours(sizes: dict[Path, int], folder: Path) -> dict[Path, int]:
    ours = (folder / ".complete", folder / MANIFEST)
    return {path: size for path, size in sizes.items() if path not in ours}


def utkface(source: Path, work: Path) -> Path:
    """Return a folder of UTKFace with a manifest in which each picture answers one question.

    The name of a picture is ``[age]_[gender]_[race]_[date].jpg.chip.jpg``. Each picture goes to one of
    the tasks gender, age (four groups) and race (five). So no two sites of different tasks have the
    same face. Names without all three are left out.

    Raises
    ------
    UserError
        There is no such picture.
    """
    folder = unpacked(source, work / "utkface")
    rows = []
    for path in sorted(folder.rglob("*.jpg")):
        words = path.name.split("_")
        if len(words) < 4 or not all(word.isdigit() for word in words[:3]):
            continue
        age, gender, race = map(int, words[:3])
        if gender < len(GENDERS) and race < len(RACES):
            group = next(name for below, name in AGES if age < below)
            answers = {"gender": GENDERS[gender], "age": group, "race": RACES[race]}
            rows.append((str(path.relative_to(folder)), answers))
    if not rows:
        raise UserError(f"{folder}: no picture is named as UTKFace names them")
    order = np.random.default_rng(2017).permutation(len(rows))
    with (folder / MANIFEST).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *TASKS])
        for place, row in enumerate(order):
            name, answers = rows[row]
            asked = TASKS[place % len(TASKS)]
            writer.writerow([name, *(answers[task] if task == asked else "" for task in TASKS)])
    return folder


def pacs(source: Path, work: Path) -> Path:
    """Return the folder of PACS: ``<domain>/<class>/*.jpg``."""
    folder = unpacked(source, work / "pacs")
    inner = [path for path in folder.iterdir() if path.is_dir()]
    return inner[0] if len(inner) == 1 else folder


def made_up_cifar100(folder: Path) -> Path:
    """Write pictures of noise in the two files of CIFAR-100's binary version, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, many) in enumerate({"train.bin": 1500, "test.bin": 500}.items()):
        drawn = np.random.default_rng(seed).integers(
            0, 256, (many, 2 + 3 * 32 * 32), dtype=np.uint8
        )
        drawn[:, 0] = np.arange(many) % 20  # the coarse label
        drawn[:, 1] = np.arange(many) % 100
        (folder / name).write_bytes(drawn.tobytes())
    return folder


def shards(source: Path, work: Path, every: int = 1) -> Path:
    """Return the folder with the npz files of MNIST's shards, one a site.

    With ``every`` above 1 the files are copies with one of so many examples of each split.

    Raises
    ------
    UserError
        There is none, or so few examples that a site would have no validation data.
    """
    folder = unpacked(source, work / "mnist")
    found = sorted(folder.rglob("*.npz"))
    if not found:
        raise UserError(f"{folder}: has no .npz file")
    if every == 1:
        return found[0].parent
    thinned = work / f"mnist-every-{every}"
    thinned.mkdir(parents=True, exist_ok=True)
    for path in found:
        with np.load(path, allow_pickle=False) as shard:
            kept = {name: shard[name][every // 2 :: every] for name in shard.files}
        empty = [name for name, values in kept.items() if not len(values)]
        if empty:
            raise UserError(f"{path}: every {every}th example leaves {empty[0]} empty; keep more")
        np.savez(thinned / path.name, **kept)
    return thinned
