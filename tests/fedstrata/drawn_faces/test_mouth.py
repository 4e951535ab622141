"""A mouth shows teeth only where the scene says so."""

from fedstrata.drawn_faces.mouth import paint_mouth
from fedstrata.drawn_faces.scenes import MOUTHS
from tests.fedstrata.drawn_faces.conftest import Sitting


def test_white_is_seen_in_mouths_with_teeth(sitting: Sitting) -> None:
    white = {}
    for mouth in ("closed", "dark", "smile", "grin"):
        it = sitting.but(mouth=MOUTHS.index(mouth), opening=0.2, teeth_colour=255.0, yaw=0.0)
        made = it.painted(lambda s, it=it: paint_mouth(s, it.head, it.people, it.scenes))  # type: ignore[misc]
        white[mouth] = int((made.min(axis=-1) > 180).sum())
    assert white["closed"] == white["dark"] == 0
    assert min(white["smile"], white["grin"]) > 0
