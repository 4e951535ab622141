"""Accessories are painted only where the scene has them."""

from fedstrata.drawn_faces.accessories import paint_glasses, paint_hand, paint_scarf
from fedstrata.drawn_faces.scenes import OCCLUDERS
from tests.fedstrata.drawn_faces.conftest import Sitting


def test_glasses_are_painted_for_who_wears_them(sitting: Sitting) -> None:
    for worn in (True, False):
        it = sitting.but(glasses=worn, frame=1)
        made = it.painted(lambda s, it=it: paint_glasses(s, it.head, it.people, it.scenes))  # type: ignore[misc]
        assert bool(made.any()) == worn


def test_a_hand_and_a_scarf_are_painted_only_as_occluders(sitting: Sitting) -> None:
    for occluder in ("none", "hand", "scarf"):
        it = sitting.but(occluder=OCCLUDERS.index(occluder), occluder_colour=200.0)
        hand = it.painted(lambda s, it=it: paint_hand(s, it.people, it.scenes))  # type: ignore[misc]
        scarf = it.painted(lambda s, it=it: paint_scarf(s, it.scenes))  # type: ignore[misc]
        assert (hand.any(), scarf.any()) == (occluder == "hand", occluder == "scarf")
        assert hand.shape == scarf.shape
