"""Amounts as a reader has them: bytes, counts and seconds in words."""

from __future__ import annotations


def bytes_text(size: float) -> str:
    """Return bytes with a decimal unit: ``8.40 MB``."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:.3g} PB"


def count_text(count: int) -> str:
    """Return a count: exact below ten thousand, else ``11.2 M``."""
    if count < 10_000:
        return f"{count:,}"
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def seconds_text(seconds: float) -> str:
    """Return a duration: ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def several(count: int, word: str, plural: str = "") -> str:
    """Return ``1 site`` or ``2 sites``."""
    return f"{count:,} {word if count == 1 else plural or word + 's'}"
