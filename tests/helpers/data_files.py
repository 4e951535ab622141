"""Small data files for the tests: pictures of noise, and arrays in MedMNIST's and UCI HAR's layout."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SUBJECTS = (1, 3, 7)


def picture(number: int, width: int = 10, height: int = 12) -> Image.Image:
    """Return a picture of noise, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fill(folder: Path, first: int, many: int) -> None:
    """Write the pictures ``first``, ``first + 1``, ..., in turn as PNG and JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + many):
        picture(number).save(folder / f"{number:03d}.{('png', 'jpg')[number % 2]}")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """Return the bytes of a picture file."""
    memory = io.BytesIO()
    image.save(memory, kind)
    return memory.getvalue()


def medmnist_arrays(
    size: int = 8, color: bool = False, kinds: int = 3, **changes: np.ndarray
) -> dict[str, np.ndarray]:
    """Return 40, 10 and 20 pictures of noise with labels, in MedMNIST's layout."""
    generator = np.random.default_rng(size)
    shape = (size, size, 3) if color else (size, size)
    made = {}
    for split, many in (("train", 40), ("val", 10), ("test", 20)):
        made[f"{split}_images"] = generator.integers(0, 256, (many, *shape), dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(many) % kinds).astype(np.uint8)[:, None]
    return {**made, **changes}


def medmnist_files(folder: Path, **tasks: int) -> Path:
    """Write a MedMNIST file of grey pictures for each task with so many classes."""
    folder.mkdir()
    for task, classes in tasks.items():
        rng = np.random.default_rng(classes)
        arrays = {}
        for split, size in {"train": 30, "val": 9, "test": 9}.items():
            arrays[f"{split}_images"] = rng.integers(0, 255, (size, 28, 28), dtype=np.uint8)
            arrays[f"{split}_labels"] = (np.arange(size) % classes)[:, None].astype(np.uint8)
        np.savez(folder / f"{task}.npz", **arrays)
    return folder


def har_recordings(
    per_activity: int = 10, subjects: Sequence[int] = SUBJECTS
) -> dict[str, np.ndarray]:
    """Return windows in order of time: each subject does the six activities once."""
    y = np.tile(np.repeat(np.arange(1, 7), per_activity), len(subjects))
    subject = np.repeat(subjects, 6 * per_activity)
    x = np.random.default_rng(0).uniform(-1, 1, (len(y), 561)).astype(np.float32).round(3)
    return {"x": x, "y": y, "subject": subject}
