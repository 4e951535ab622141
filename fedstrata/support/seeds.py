"""Seeds derived from the run's seed and a purpose, whatever the order of calls."""

from __future__ import annotations

import hashlib
import json


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a seed in ``[0, 2**63)`` for the purpose that ``labels`` names.

    Parameters
    ----------
    seed : int
        The run's seed.
    *labels : str or int
        What the seed is for, such as ``"faces", 3, "train"``; ``1`` and ``"1"`` differ.

    Returns
    -------
    int
        63 bits of the SHA-256 of all arguments: the same on every machine and in every process.
    """
    # Not Python's hash(), which differs from process to process. JSON tells 1 from "1", and no two
    # lists of labels have the same text.
    text = json.dumps([seed, *labels]).encode()
    # 63 bits, so that torch and numpy both take the seed as a non-negative int64.
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
