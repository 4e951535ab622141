"""How large the pictures of a site are in their files, and for the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Size = tuple[int, int]  # width and height in pixels


class PictureSizes(NamedTuple):
    """Sizes before and after; smallest and largest by the number of pixels.

    ``commonest_count`` pictures have the ``commonest`` size. With ``cut`` the network sees the
    central square of each.
    """

    smallest: Size
    commonest: Size
    commonest_count: int
    largest: Size
    after: Size
    cut: bool

    def as_dict(self) -> dict[str, Any]:
        """Return them under the names that `fedstrata check --json` prints."""
        before = {
            "smallest": list(self.smallest),
            "commonest": list(self.commonest),
            "commonest_count": self.commonest_count,
            "largest": list(self.largest),
        }
        return {"before": before, "after": list(self.after), "central_square": self.cut}


def sizes_of(counts: Mapping[Size, int], after: Size) -> PictureSizes | None:
    """Return the sizes of pictures of which there are so many each; None where there are none."""
    if not counts:
        return None
    by_area = sorted(counts, key=lambda size: (size[0] * size[1], size))
    commonest = max(by_area, key=lambda size: counts[size])
    cut = any(width != height for width, height in counts)
    return PictureSizes(
        by_area[0], commonest, counts[commonest], by_area[-1], after, cut and after[0] == after[1]
    )
