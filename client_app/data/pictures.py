"""Decodes untrusted picture files into equal squares, within a fixed memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from client_app.data.paths import describe_file
from fedstrata.support.errors import UserError, private
from models.training.data import ArrayInputs

# Only these are decoded. Others start programs (EPS) or are rarely tested.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LARGEST_FILE = 256 << 20
MOST_PIXELS = 64_000_000
MOST_THREADS = 4  # that decode at once; fewer where torch has fewer

Square = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureCache:
    """Decoded pictures up to a limit of memory; the others are decoded again when needed.

    Parameters
    ----------
    size : int
        Side of the squares in pixels.
    memory : int
        The most bytes of decoded pictures. Those decoded first stay: each epoch needs each picture
        once, so no other rule keeps more of what is needed.
    kept : dict
        Maps the SHA-256 of a file to its square, uint8 ``(size, size, 3)``.
    """

    size: int
    memory: int
    kept: dict[str, Square] = field(default_factory=dict)

    def examine(self, paths: Sequence[Path]) -> tuple[str, ...]:
        """Decode every file once and return each SHA-256; raise a `UserError` for a bad one."""
        with ThreadPoolExecutor(threads()) as pool:
            return tuple(pool.map(self._examine, paths))

    def squares(self, paths: Sequence[Path], digests: Sequence[str]) -> Square:
        """Return the decoded pictures, uint8 ``(len(paths), size, size, 3)``."""
        if all(digest in self.kept for digest in digests):
            return np.stack([self.kept[digest] for digest in digests])
        with ThreadPoolExecutor(threads()) as pool:
            return np.stack(list(pool.map(self._square, paths, digests)))

    def _examine(self, path: Path) -> str:
        content = read_file(path)
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self.kept:
            self._keep(digest, decode_square(path, content, self.size))
        return digest

    def _square(self, path: Path, digest: str) -> Square:
        if digest in self.kept:
            return self.kept[digest]
        content = read_file(path)
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(describe_file(path) + ": has changed since the run began; start again")
        return decode_square(path, content, self.size)

    def _keep(self, digest: str, square: Square) -> None:
        if (len(self.kept) + 1) * square.nbytes <= self.memory:
            self.kept[digest] = square


@dataclass(frozen=True)
class PictureInputs:
    """Picture files as inputs, decoded on demand.

    Parameters
    ----------
    paths : tuple of Path
        One file per example.
    digests : tuple of str
        The SHA-256 of each file.
    cache : PictureCache
        Decodes the files and keeps those that fit.
    mean, std : tuple of float
        Per channel, as in `ArrayInputs`.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    cache: PictureCache
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the pictures at ``indices``: float32, ``(b, 3, size, size)``, normalized.

        Raises
        ------
        UserError
            A file has changed or is missing since the start.
        """
        paths = [self.paths[index] for index in indices]
        squares = self.cache.squares(paths, [self.digests[index] for index in indices])
        return ArrayInputs(squares, self.mean, self.std).batch(np.arange(len(squares)))

    def digest(self) -> str:
        """Return a SHA-256 of the files, the preparation and the version of the decoder."""
        prepared = repr((self.cache.size, self.mean, self.std, PIL.__version__))
        return hashlib.sha256("\n".join([*self.digests, prepared]).encode()).hexdigest()


def threads() -> int:
    """Return how many threads decode: at most as many as the site lets torch use."""
    return min(MOST_THREADS, torch.get_num_threads())


def read_file(path: Path) -> bytes:
    """Return the bytes of a file; raise a `UserError` where it is missing or too large."""
    try:
        with path.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(describe_file(path) + f": cannot be read ({error.strerror})") from error
    if len(content) > LARGEST_FILE:
        raise UserError(describe_file(path) + f": larger than {LARGEST_FILE >> 20} MiB")
    return content


def decode_square(path: Path, content: bytes, size: int) -> Square:
    """Decode a picture, crop the central square and scale it to ``size``.

    Parameters
    ----------
    path : Path
        For the error text.
    content : bytes
        The file.
    size : int
        Side of the result.

    Returns
    -------
    NDArray[np.uint8]
        RGB, shape ``(size, size, 3)``. 16-bit gray keeps its upper 8 bits.

    Raises
    ------
    UserError
        The format is not known, the file is damaged, or it has too many pixels.
    """
    # Pillow's decoders raise a dozen kinds of exception for damaged files.
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                pixels = private(f"{width} x {height} pixels are", "has")
                raise UserError(describe_file(path) + ": " + pixels + f" more than {MOST_PIXELS:,}")
            image.verify()  # checks the file's sums; the image cannot be decoded afterwards
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            edge = min(width, height)
            left, upper = (width - edge) // 2, (height - edge) // 2
            crop = image.crop((left, upper, left + edge, upper + edge))
            square = _rgb(path, crop, image.format)
            scaled = square.resize((size, size), Image.Resampling.BILINEAR)
    except UserError:
        raise
    except Exception as error:
        reason = private(f" ({str(error) or type(error).__name__})")
        raise UserError(
            describe_file(path) + ": not a readable picture" + reason + "; mend or remove it"
        ) from error
    return np.asarray(scaled, dtype=np.uint8)


def _rgb(path: Path, image: Image.Image, kind: str | None) -> Image.Image:
    """Convert to RGB; 16-bit gray keeps its upper 8 bits."""
    # Pillow's own conversion clips gray values above 255. It opens a PGM of more than 8 bits as a
    # 32-bit image with values up to 65,535.
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        wide = np.asarray(image).astype(np.uint16)
        return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UserError(describe_file(path) + ": has 32 bits per pixel; save it with 8 or 16")
    return image.convert("RGB")
