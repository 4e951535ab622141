"""Small data sets in the original formats of MNIST, CIFAR, Tiny-ImageNet, AG News and PAMAP2."""

from __future__ import annotations

import csv
import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def idx(values: np.ndarray) -> bytes:
    """Return the bytes of an idx file."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def mnist_files(
    folder: Path, train: int = 200, test: int = 40, packed: bool = True, side: int = 28
) -> Path:
    """Write pictures of noise with the labels 0, 1, ..., 9, 0, ... in MNIST's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(5)
    for stem, many in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (many, side, side), dtype=np.uint8)
        labels = (np.arange(many) % 10).astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{stem}-{name}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(values), mtime=0))
            else:
                path.write_bytes(idx(values))
    return folder


def cifar_records(many: int, labels: int, classes: int, seed: int = 0) -> np.ndarray:
    """Return records of pictures of noise; the last label is the record's number."""
    records = np.random.default_rng(seed).integers(0, 256, (many, labels + 3072), dtype=np.uint8)
    records[:, labels - 1] = np.arange(many) % classes
    return records


def cifar_files(folder: Path, fine: bool) -> Path:
    """Write CIFAR-10 with 20 pictures a file, or CIFAR-100 with 200."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["train.bin", "test.bin"]
    if not fine:
        names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for seed, name in enumerate(names):
        records = cifar_records(200, 2, 100, seed) if fine else cifar_records(20, 1, 10, seed)
        (folder / name).write_bytes(records.tobytes())
    return folder


def tiny_imagenet_files(folder: Path, classes: int = 3, each: int = 12) -> Path:
    """Write pictures of one color a class in the folders of Tiny-ImageNet."""
    names = [f"n{number:08d}" for number in range(classes)]
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(reversed(names)) + "\n")
    lines = []
    for number, name in enumerate(names):
        inner = folder / "train" / name / "images"
        inner.mkdir(parents=True)
        picture = Image.new("RGB", (64, 64), (60 * number, 100, 200))
        for place in range(each):
            picture.save(inner / f"{name}_{place}.JPEG")
        picture.convert("L").save(folder / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return folder


def ag_news_files(folder: Path, train: int = 80, test: int = 20) -> Path:
    """Write headlines of four kinds in the two files of AG News."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, many in (("train.csv", train), ("test.csv", test)):
        with (folder / name).open("w", newline="") as opened:
            csv.writer(opened, quoting=csv.QUOTE_ALL).writerows(
                [row % 4 + 1, f"Title {row}, {name[:4]}", f'Word{row % 4} said "so".']
                for row in range(many)
            )
    return folder


def pamap2_file(path: Path, seed: int, activities: tuple[int, ...] = (0, 1, 4, 24)) -> Path:
    """Write eight windows of each activity, with some values that are not known."""
    path.parent.mkdir(parents=True, exist_ok=True)
    many = 8 * 512 + 5
    rows = np.random.default_rng(seed).normal(size=(many * len(activities), 54))
    rows[:, 1] = np.repeat(activities, many)
    rows[10:20, 4] = np.nan
    np.savetxt(path, rows, fmt="%.1f")
    return path
