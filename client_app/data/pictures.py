"""Decodes picture files that nobody vouches for into equal squares, within a fixed memory."""

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

# What may be decoded; the others include formats that start programs (EPS) or are rarely tested.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LARGEST_FILE = 256 << 20
MOST_PIXELS = 64_000_000
MOST_THREADS = 4  # that decode at once, where torch has as many

Square = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureCache:
    """Prepared pictures that fit the memory, and the means to decode the others again.

    Parameters
    ----------
    size : int
        Side of the squares in pixels.
    memory : int
        Bytes that prepared pictures may take; what was decoded first stays. (Every epoch needs
        every picture once, and for that no rule of eviction is better.)
    kept : dict
        SHA-256 of a file to its square, uint8 ``(size, size, 3)``.
    """

    size: int
    memory: int
    kept: dict[str, Square] = field(default_factory=dict)

    def examine(self, paths: Sequence[Path]) -> tuple[str, ...]:
        """Decode every file once and return their SHA-256; raise `UserError` for a bad one."""
        with ThreadPoolExecutor(threads()) as pool:
            return tuple(pool.map(self._examine, paths))

    def squares(self, paths: Sequence[Path], digests: Sequence[str]) -> Square:
        """Return the prepared pictures, uint8 ``(len(paths), size, size, 3)``."""
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
    """Picture files as inputs, decoded when they are asked for.

    Parameters
    ----------
    paths : tuple of Path
        One file per example.
    digests : tuple of str
        The SHA-256 of each file.
    cache : PictureCache
        Decodes, and keeps what fits.
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
        """Return the pictures at ``indices``: float32, ``(b, 3, size, size)``, normalised.

        Raises
        ------
        UserError
            A file has changed or gone since the start.
        """
        paths = [self.paths[index] for index in indices]
        squares = self.cache.squares(paths, [self.digests[index] for index in indices])
        return ArrayInputs(squares, self.mean, self.std).batch(np.arange(len(squares)))

    def digest(self) -> str:
        """Return a SHA-256 over the files' own and the preparation, decoder version included."""
        prepared = repr((self.cache.size, self.mean, self.std, PIL.__version__))
        return hashlib.sha256("\n".join([*self.digests, prepared]).encode()).hexdigest()


def threads() -> int:
    """Return how many threads decode, by the site's own limit of them."""
    return min(MOST_THREADS, torch.get_num_threads())


def read_file(path: Path) -> bytes:
    """Return the bytes of a picture file; raise `UserError` where it is gone or too large."""
    try:
        with path.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(describe_file(path) + f": cannot be read ({error.strerror})") from error
    if len(content) > LARGEST_FILE:
        raise UserError(describe_file(path) + f": larger than {LARGEST_FILE >> 20} MiB")
    return content


def decode_square(path: Path, content: bytes, size: int) -> Square:
    """Decode a picture, cut its central square and scale that to ``size``.

    Parameters
    ----------
    path : Path
        Named in the texts of errors.
    content : bytes
        The file.
    size : int
        Side of the result.

    Returns
    -------
    NDArray[np.uint8]
        RGB, shape ``(size, size, 3)``. 16-bit grey keeps its upper 8 bits.

    Raises
    ------
    UserError
        The file is no picture of a known format, is damaged, or has too many pixels.
    """
    # The decoders raise a dozen kinds of exception for damaged files; each means this file.
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                pixels = private(f"{width} x {height} pixels are", "has")
                raise UserError(describe_file(path) + ": " + pixels + f" more than {MOST_PIXELS:,}")
            image.verify()
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
    """Convert to RGB; Pillow itself would clip grey values above 255 instead of scaling them.

    A PGM of more than 8 bits it scales to 16, in an image of 32.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        wide = np.asarray(image).astype(np.uint16)
        return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UserError(describe_file(path) + ": has 32 bits per pixel; save it with 8 or 16")
    return image.convert("RGB")
