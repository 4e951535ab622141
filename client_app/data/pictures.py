"""Pictures of a site as inputs: decoded within a fixed memory, scaled when a batch is made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client_app.data.decoded_store import DecodedStore, PackWriter
from client_app.data.dicom import MissingReaderError
from client_app.data.file_digests import KeptDigests, map_in_pieces
from client_app.data.paths import describe_file
from client_app.data.pixels import VERSION, Facts, Preparation, Square, scaled_values
from client_app.data.readers import decode_all, decode_one
from fedstrata.support.errors import UserError
from models.preprocessing import Pictures
from models.training.data import ArrayInputs

LARGEST_FILE = 256 << 20
MOST_THREADS = 4  # that decode at once; fewer where torch has fewer


@dataclass(frozen=True, slots=True)  # there are as many as files
class Picture:
    """One picture of a site.

    Parameters
    ----------
    path : Path
        Its file.
    digest : str
        The SHA-256 of the file.
    facts : Facts
        What was seen when it was decoded.
    frame : int
        Which picture of the file it is, from 0.
    """

    path: Path
    digest: str
    facts: Facts
    frame: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """What its pixels depend on, besides the preparation."""
        return self.digest, self.frame


@dataclass(frozen=True)
class PictureCache:
    """Decoded pictures up to a limit of memory; the others are decoded again when needed.

    Parameters
    ----------
    preparation : Preparation
        What is done to each picture.
    memory : int
        The most bytes of decoded pictures. Those decoded first stay: each epoch needs each picture
        once, so no other rule keeps more of what is needed.
    store : DecodedStore or None
        Decoded pictures on disk.
    digests : KeptDigests or None
        Of files that were read before.
    kept : dict
        Maps `Picture.key` to the square.
    sizes : Counter of tuple
        How many of the examined pictures have which width and height.
    """

    preparation: Preparation
    memory: int
    store: DecodedStore | None = None
    digests: KeptDigests | None = None
    kept: dict[tuple[str, int], Square] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    _used: list[int] = field(default_factory=lambda: [0], repr=False)  # bytes, in `kept`
    _facts: dict[Facts, Facts] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def examine(self, paths: Sequence[Path]) -> list[list[Picture] | UserError]:
        """Decode every file that is not stored; return its pictures, or what is wrong with it."""
        with ThreadPoolExecutor(threads()) as pool, self._writing() as writer:
            found = list(map_in_pieces(pool, lambda path: self._examine(path, writer), paths))
        self._facts.clear()
        if self.digests is not None:
            self.digests.save()
        return found

    def squares(self, pictures: Sequence[Picture]) -> list[Square]:
        """Return the decoded pictures.

        Raises
        ------
        UserError
            A file has changed or is missing since it was examined.
        """
        found = {p.key: self.kept[p.key] for p in pictures if p.key in self.kept}
        missing = {p.key: p for p in pictures if p.key not in found}
        if missing and self.store is not None:
            found |= self.store.squares(missing)
            for key in missing.keys() & found.keys():
                self._keep(key, found[key])
        again = [picture for key, picture in missing.items() if key not in found]
        if again:
            with ThreadPoolExecutor(threads()) as pool:
                found |= dict(
                    zip((p.key for p in again), pool.map(self._decode, again), strict=True)
                )
        return [found[picture.key] for picture in pictures]

    def _examine(self, path: Path, writer: PackWriter | None) -> list[Picture] | UserError:
        found = []
        key, known = (b"", None) if self.digests is None else self.digests.find(path)
        try:
            if known is not None and (stored := self._stored(path, known)):
                return stored
            content = read_file(path)
            digest = hashlib.sha256(content).hexdigest()
            if self.digests is not None:
                self.digests.add(key, digest)
            if stored := self._stored(path, digest):
                return stored
            for frame, frames, decoded in decode_all(path, content, self.preparation):
                # Most are the same, in pictures of 8 bits: they share one object.
                facts = self._facts.setdefault(decoded.facts, decoded.facts)
                picture = Picture(path, digest, facts, frame)
                found.append(picture)
                self._keep(picture.key, decoded.square)
                self._count(decoded.size)
                if writer is not None:
                    writer.add(digest, frame, frames, decoded)
        except MissingReaderError:
            raise
        except UserError as error:
            return error
        return found

    def _stored(self, path: Path, digest: str) -> list[Picture]:
        """Return the pictures of a file that are on disk; none where not all of them are."""
        stored = () if self.store is None else self.store.pictures(digest)
        for each in stored:
            self._count(each.size)
        return [Picture(path, digest, each.facts, each.frame) for each in stored]

    def _writing(self) -> AbstractContextManager[PackWriter | None]:
        return nullcontext() if self.store is None else self.store.writing()

    def _decode(self, picture: Picture) -> Square:
        content = read_file(picture.path)
        if hashlib.sha256(content).hexdigest() != picture.digest:
            raise UserError(
                describe_file(picture.path) + ": has changed since the run began; start again"
            )
        return decode_one(picture.path, content, self.preparation, picture.frame).square

    def _count(self, size: tuple[int, int]) -> None:
        with self._lock:
            self.sizes[size] += 1

    def _keep(self, key: tuple[str, int], square: Square) -> None:
        with self._lock:
            if self._used[0] + square.nbytes <= self.memory and key not in self.kept:
                self._used[0] += square.nbytes
                self.kept[key] = square


@dataclass(frozen=True)
class PictureInputs:
    """Picture files as inputs, decoded on demand.

    Parameters
    ----------
    pictures : tuple of Picture
        One per example.
    cache : PictureCache
        Decodes the files and keeps those that fit.
    mean, std : tuple of float
        Per channel, as in `ArrayInputs`.
    span : tuple of float or None
        The values that become 0 and 1 in pictures of more than 8 bits.
    for_all : bool
        Whether ``span`` is for pictures of 8 bits too; else 0 and 255 are theirs.
    window_of_file : bool
        Whether a picture that names a range of its own is scaled by that.
    """

    pictures: tuple[Picture, ...]
    cache: PictureCache
    mean: tuple[float, ...]
    std: tuple[float, ...]
    span: tuple[float, float] | None = None
    for_all: bool = False
    window_of_file: bool = False

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of each example."""
        return tuple(picture.path for picture in self.pictures)

    @property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of each example's file."""
        return tuple(picture.digest for picture in self.pictures)

    @property
    def preprocessing(self) -> Pictures:
        """What becomes of each picture, as a model's card has it."""
        made = self.cache.preparation
        return Pictures(
            made.size,
            1 if made.channels == 1 else 3,
            self.mean,
            self.std,
            self.span,
            self.for_all,
            self.window_of_file,
            made.background,
            "middle" if made.slices == "middle" else "all",
            made.nifti_axis,  # type: ignore[arg-type]
            made.nifti_stride,
            decoder=VERSION,
        )

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the pictures at ``indices``: float32, ``(b, channels, size, size)``, normalized.

        Raises
        ------
        UserError
            A file has changed or is missing since the start.
        """
        chosen = [self.pictures[index] for index in indices]
        squares = self.cache.squares(chosen)
        if not (self.for_all or self.window_of_file) and not any(
            picture.facts.wide for picture in chosen
        ):
            return torch.from_numpy(self._looked_up(np.stack(squares)))
        channels = self.cache.preparation.channels
        scaled = [
            scaled_values(square, picture.facts, self._span(picture.facts), channels)
            for square, picture in zip(squares, chosen, strict=True)
        ]
        values = torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        return ((values - mean) / std).contiguous()

    def _looked_up(self, squares: NDArray[Any]) -> NDArray[np.float32]:
        """Return values of 8 bits normalized, ``(b, channels, size, size)``."""
        values = np.empty((len(squares), squares.shape[3], *squares.shape[1:3]), dtype=np.float32)
        for channel, table in enumerate(self._of_eight_bits):
            np.take(table, squares[..., channel], out=values[:, channel], mode="clip")
        return values

    @cached_property
    def _of_eight_bits(self) -> NDArray[np.float32]:
        """What each of 256 values becomes in each channel: looked up, it costs a third."""
        every = np.arange(256, dtype=np.uint8)[None, :, None, None]
        every = np.broadcast_to(every, (1, 256, 1, len(self.mean)))
        given = ArrayInputs(every, self.mean, self.std).batch(np.array([0]))
        return np.ascontiguousarray(given[0, :, :, 0].numpy())

    def digest(self) -> str:
        """Return a SHA-256 of the files, the preparation, the scale and the decoder's version."""
        scale = (self.mean, self.std, self.span, self.for_all, self.window_of_file)
        prepared = repr((self.cache.preparation.key(), scale))
        keys = [f"{picture.digest} {picture.frame}" for picture in self.pictures]
        return hashlib.sha256("\n".join([*keys, prepared]).encode()).hexdigest()

    def _span(self, facts: Facts) -> tuple[float, float] | None:
        if self.window_of_file and facts.window_low < facts.window_high:
            return facts.window_low, facts.window_high
        return self.span if facts.wide or self.for_all else None


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
