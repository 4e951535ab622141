"""AG News (Zhang et al. 2015): headlines of four kinds, as counts of words in hashed columns."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client_app.data.duplicates import numbered_contents
from client_app.data.paths import describe_file
from client_app.data.pflbench.published import (
    Published,
    folder_with,
    missing,
    one_of,
)
from fedstrata.support.errors import UserError, private

KINDS = ("World", "Sports", "Business", "Sci/Tech")
WORDS = 4096  # columns; a word is in the one that its CRC-32 names, so no vocabulary is needed
_FOLDERS = ("", "ag_news_csv", "ag_news")
_WORD = re.compile(r"[a-z0-9]+")


def read_ag_news(root: Path, largest: int) -> Published:
    """Return AG News: of each text the share of its words in each of `WORDS` columns.

    A perceptron whose first layer takes them is a mean of embeddings, as in fastText.

    Parameters
    ----------
    root : Path
        The folder with ``train.csv`` and ``test.csv``, or the one above it.
    largest : int
        The most bytes of one file.

    Raises
    ------
    UserError
        A file is missing, too large, or a row is no class from 1 to 4, a title and a text.
    """
    folder = folder_with(root, _FOLDERS, ["train.csv"])
    if folder is None:
        raise missing(root, ["train.csv"])
    texts: list[str] = []
    labels: list[int] = []
    places: list[tuple[Path, int]] = []
    trained = 0
    for name in ("train.csv", "test.csv"):
        path = one_of(root, folder, [name])
        if path.stat().st_size > largest:
            raise UserError(
                describe_file(path) + f": larger than data.largest_mb allows ({largest >> 20} MiB)"
            )
        for line, label, text in _rows(path):
            labels.append(label)
            texts.append(text)
            places.append((path, line))
        trained = trained or len(texts)
    return Published(
        KINDS,
        np.array(labels, dtype=np.int64),
        np.arange(len(texts)) >= trained,
        lambda rows: shares_of_words([texts[row] for row in rows]),
        numbered_contents(text.encode() for text in texts),
        lambda row: describe_file(places[row][0]) + f", line {places[row][1]}",
        lambda row: places[row],
        "text",
    )


def _rows(path: Path) -> list[tuple[int, int, str]]:
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as opened:
            for row in (reader := csv.reader(opened)):
                if len(row) < 2 or row[0] not in ("1", "2", "3", "4"):
                    raise UserError(
                        describe_file(path)
                        + f", line {reader.line_num}: a class from 1 to 4, a title and a text are "
                        "needed"
                    )
                rows.append((reader.line_num, int(row[0]) - 1, " ".join(row[1:])))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            describe_file(path) + ": cannot be read" + private(f" ({error})")
        ) from error
    if not rows:
        raise UserError(describe_file(path) + ": has no rows")
    return rows


def shares_of_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the share of a text's words in each column: float32 ``(n, WORDS)``.

    A word is a run of letters and digits, in small letters.
    """
    shares = np.zeros((len(texts), WORDS), dtype=np.float32)
    for row, text in enumerate(texts):
        words = _WORD.findall(text.lower())
        columns = [zlib.crc32(word.encode()) % WORDS for word in words]
        np.add.at(shares[row], columns, 1 / max(1, len(words)))
    return shares
