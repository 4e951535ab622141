"""Seeds that follow from the run's seed and from what they are for, not from the order of calls."""

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
    told = json.dumps([seed, *labels]).encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big") >> 1
