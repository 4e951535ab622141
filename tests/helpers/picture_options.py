"""The options of pictures, for tests that need no configuration."""

from __future__ import annotations

from client_app.data.picture_options import PictureOptions

DEFAULTS = {
    "size": 8,
    "channels": 3,
    "background": "white",
    "range": None,
    "window": None,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "slices": "all",
    "nifti_axis": 2,
    "nifti_stride": 1,
    "unreadable": "refuse",
    "unreadable_most": 0.05,
    "memory_mb": 1,
    "cache_mb": 1,
}


def picture_options(**changes: object) -> PictureOptions:
    """Return the options of pictures for small squares, some of them replaced, after their check."""
    made = PictureOptions(**{**DEFAULTS, **changes})  # type: ignore[arg-type]
    made.check()
    return made
