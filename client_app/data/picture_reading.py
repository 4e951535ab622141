"""Reads a site's pictures once: which can be read, and which values become black and white."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from client_app.data.decoded_store import DecodedStore
from client_app.data.file_digests import KeptDigests
from client_app.data.findings import Findings
from client_app.data.normalization import SMALL_SHARE, some_of, warn_of_small_range
from client_app.data.paths import describe_file
from client_app.data.picture_options import OF_FILE, SKIP, PictureOptions
from client_app.data.picture_sizes import sizes_of
from client_app.data.pictures import Picture, PictureCache, PictureInputs
from client_app.data.pixels import EIGHT_BITS
from fedstrata.support.errors import PrivateText, UserError, private

MOST_NAMED = 10  # damaged files that an error names
logger = logging.getLogger("flwr")
_BOOKKEEPING = 4608  # bytes for a picture's path, digest and place, measured with 60,000


@dataclass(frozen=True)
class ReadPictures:
    """The pictures of a site that can be read.

    Parameters
    ----------
    options : PictureOptions
        How they were read.
    cache : PictureCache
        What decodes them.
    pictures : tuple of Picture
        In the order of the files that were given.
    rows : NDArray[np.int64]
        Which of the given files each picture is from.
    findings : Findings
        Where it is said how they are scaled.
    """

    options: PictureOptions
    cache: PictureCache
    pictures: tuple[Picture, ...]
    rows: NDArray[np.int64]
    findings: Findings

    def copies(self) -> NDArray[np.int64]:
        """Return a number for each picture that those of one file, and of its copies, share."""
        digests = np.array([picture.digest for picture in self.pictures], dtype=np.str_)
        return np.unique(digests, return_inverse=True)[1]

    def inputs(
        self, splits: Sequence[NDArray[np.int64]]
    ) -> tuple[list[PictureInputs], tuple[float, float] | None]:
        """Return the inputs of each split, and the values that become 0 and 1 in all of them.

        The first split is the training split, which decides the values where they are not given.
        """
        of_file = self.options.window == OF_FILE
        given = self.options.given_span()
        train = [self.pictures[row] for row in splits[0]]
        span = given or _span_of(train)
        mean, std = self.options.normalization()
        inputs = [
            PictureInputs(
                tuple(self.pictures[row] for row in rows),
                self.cache,
                mean,
                std,
                span,
                for_all=given is not None,
                window_of_file=of_file,
            )
            for rows in splits
        ]
        self._say_scale(train, span, of_file)
        return inputs, None if of_file else span or EIGHT_BITS

    def _say_scale(
        self, train: Sequence[Picture], span: tuple[float, float] | None, of_file: bool
    ) -> None:
        wide = [picture for picture in self.pictures if picture.facts.wide]
        if 0 < len(wide) < len(self.pictures):
            self.findings.warn(
                f"two depths: of {len(self.pictures)} pictures {len(wide)} have more than 8 bits a "
                "value, and they are scaled otherwise than those of 8 bits"
            )
        if of_file:
            self.findings.note("data.window=file: each picture is scaled by its file's own window")
            lacking = sum(not p.facts.window_low < p.facts.window_high for p in self.pictures)
            if lacking:
                self.findings.warn(f"data.window=file: pictures that name no window: {lacking}")
            return
        if span is None:
            advice = "give data.range=[lowest, highest]"
            warn_of_small_range(self.cache.squares(some_of(train)), advice, self.findings)
            return
        low, high = span
        source = "of the training pictures" if self.options.given_span() is None else "given"
        self.findings.note(
            f"the values {_number(low)} to {_number(high)}, {source}, become 0 and 1 (data.range)"
        )
        facts = [picture.facts for picture in self.pictures if picture.facts.wide]
        outside = sum(each.low < low or each.high > high for each in facts)
        if outside:
            self.findings.note(f"pictures with values outside of it, which are cut off: {outside}")
        used = [
            min(p.facts.high, high) - max(p.facts.low, low)
            for p in train
            if p.facts.wide or self.options.given_span()
        ]
        if used and median(used) * SMALL_SHARE < high - low:
            self.findings.warn(
                f"half of the training pictures use less than 1/{SMALL_SHARE} of the values "
                f"{_number(low)} to {_number(high)}: give data.range=[lowest, highest]"
            )


def read_pictures(
    options: PictureOptions,
    paths: Sequence[Path],
    findings: Findings,
    cache_dir: Path | None = None,
    root: Path | None = None,
) -> ReadPictures:
    """Decode each file once, or take what an earlier start left in ``cache_dir``.

    ``root`` is the folder of them all.

    Raises
    ------
    UserError
        Files cannot be read, all of which it counts; or more than ``data.unreadable_most``.
    """
    preparation = options.preparation()
    memory = max(0, (options.memory_mb << 20) - _BOOKKEEPING * len(paths))
    cache = PictureCache(preparation, memory)
    if cache_dir is not None and options.cache_mb and paths:
        store = DecodedStore(cache_dir / "pictures", preparation, options.cache_mb << 20)
        digests = KeptDigests(cache_dir, str(root or os.path.commonpath(paths)))
        cache = PictureCache(preparation, memory, store, digests)
    pictures: list[Picture] = []
    rows: list[int] = []
    wrong: list[tuple[Path, UserError]] = []
    for row, (path, found) in enumerate(zip(paths, cache.examine(paths), strict=True)):
        if isinstance(found, UserError):
            wrong.append((path, found))
            continue
        pictures.extend(found)
        rows.extend([row] * len(found))
    _handle_unreadable(options, wrong, len(paths), findings)
    _say_left_out(pictures, findings)
    findings.sizes = sizes_of(cache.sizes, (preparation.size, preparation.size))
    cache.sizes.clear()
    if options.channels == 1:
        colored = sum(picture.facts.colored for picture in pictures)
        if colored:
            findings.note(f"data.channels=1: pictures with colors, which become gray: {colored}")
    return ReadPictures(options, cache, tuple(pictures), np.array(rows, dtype=np.int64), findings)


def _handle_unreadable(
    options: PictureOptions,
    wrong: Sequence[tuple[Path, UserError]],
    count: int,
    findings: Findings,
) -> None:
    if not wrong:
        return
    most = options.unreadable_most
    allowed = int(most * count) if most < 1 else int(most)
    if options.unreadable == SKIP and len(wrong) <= allowed:
        for path, _ in wrong:
            findings.leave_out("unreadable", describe_file(path))
        return
    if options.unreadable == SKIP:
        instead = f"; data.unreadable_most allows {allowed}"
    elif len(wrong) == 1:
        raise wrong[0][1]
    else:
        instead = "; mend or remove them, or use data.unreadable=skip"
    raise UserError(_named([error for _, error in wrong], count) + instead)


def _named(errors: Sequence[UserError], count: int) -> PrivateText:
    named = "\n  ".join(str(error) for error in errors[:MOST_NAMED])
    more = ""
    if len(errors) > MOST_NAMED:
        more = f"\n  and {len(errors) - MOST_NAMED} more, which the log of this site names"
        logger.error("all that cannot be read:\n  %s", "\n  ".join(map(str, errors)))
    return f"{len(errors)} of {count} pictures cannot be read" + private(f":\n  {named}{more}")


def _say_left_out(pictures: Sequence[Picture], findings: Findings) -> None:
    for picture in pictures:
        if picture.facts.unused_pages:
            findings.leave_out("page", describe_file(picture.path), picture.facts.unused_pages)


def _span_of(train: Sequence[Picture]) -> tuple[float, float] | None:
    """Return the extremes of the values of pictures of more than 8 bits; None without such."""
    facts = [picture.facts for picture in train if picture.facts.wide]
    if not facts:
        return None
    low, high = min(each.low for each in facts), max(each.high for each in facts)
    if low == high:
        raise UserError(
            "every value of the training pictures of more than 8 bits is the same"
            + private(f" ({_number(low)})")
            + "; mend the files, or say which values are black and white, as in "
            "data.range=[0,4095]"
        )
    return low, high


def _number(value: float) -> str:
    return f"{value:.6g}" if value != int(value) else str(int(value))
