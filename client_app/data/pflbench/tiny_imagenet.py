"""Tiny-ImageNet: 200 classes of 64x64 JPEGs; the file for testing is that of validation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client_app.data.paths import describe_file, describe_root, reject_escape
from client_app.data.pflbench.published import Published, folder_with, missing, one_of
from fedstrata.support.errors import UserError, private

SIDE = 64
_WORDS, _ANNOTATIONS = "wnids.txt", "val_annotations.txt"
_FOLDERS = ("", "tiny-imagenet-200")
_MOST_TEXT = 16 << 20


def read_tiny_imagenet(root: Path, largest: int) -> Published:
    """Return the names of all pictures with their classes; pictures are decoded when asked for.

    Parameters
    ----------
    root : Path
        The folder ``tiny-imagenet-200``, or the one above it.
    largest : int
        Not used: a picture is refused where it is not 64x64.

    Raises
    ------
    UserError
        A file is missing, or a picture has no known class.
    """
    del largest
    folder = folder_with(root, _FOLDERS, [_WORDS])
    if folder is None:
        raise missing(root, [_WORDS])
    classes = sorted(_lines(one_of(root, folder, [_WORDS])))
    if twice := [name for name, next_one in pairwise(classes) if name == next_one]:
        raise UserError(
            describe_root(root) + f": {_WORDS} has a class twice" + private(f" ({twice[0]})")
        )
    index = {name: number for number, name in enumerate(classes)}
    paths: list[Path] = []
    labels: list[int] = []
    for name in classes:
        found = sorted((folder / "train" / name / "images").glob("*.JPEG"))
        if not found:
            raise UserError(describe_root(root) + private(f": no pictures in train/{name}/images"))
        paths += found
        labels += [index[name]] * len(found)
    trained = len(paths)
    annotations = one_of(root, folder / "val", [_ANNOTATIONS])
    for number, line in enumerate(_lines(annotations), start=1):
        words = line.split("\t")
        if len(words) < 2 or words[1] not in index or "/" in words[0]:
            raise UserError(
                describe_file(annotations) + f", line {number}: a picture and its class are needed"
            )
        paths.append(folder / "val" / "images" / words[0])
        labels.append(index[words[1]])
    return Published(
        tuple(classes),
        np.array(labels, dtype=np.int64),
        np.arange(len(paths)) >= trained,
        lambda rows: _decoded(root, [paths[row] for row in rows]),
        np.arange(len(paths), dtype=np.int64),
        lambda row: describe_file(paths[row]),
        lambda row: (paths[row], 0),
        "picture",
    )


def _lines(path: Path) -> list[str]:
    if path.stat().st_size > _MOST_TEXT:
        raise UserError(describe_file(path) + f": more than {_MOST_TEXT >> 20} MiB of text")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            describe_file(path) + ": cannot be read" + private(f" ({error})")
        ) from error


def _decoded(root: Path, paths: Sequence[Path]) -> NDArray[np.uint8]:
    images = np.empty((len(paths), SIDE, SIDE, 3), dtype=np.uint8)
    for number, path in enumerate(paths):
        reject_escape(root, path)
        try:
            with Image.open(path, formats=("JPEG",)) as image:
                if image.size != (SIDE, SIDE):  # before anything is decoded
                    raise UserError(describe_file(path) + f": is not {SIDE}x{SIDE}")
                images[number] = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                describe_file(path) + ": damaged, it cannot be decoded" + private(f" ({error})")
            ) from error
    return images
