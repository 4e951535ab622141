"""Hair, beards and hats are painted for who has them."""

from fedstrata.drawn_faces.hair import (
    covers_ears,
    paint_beard,
    paint_hair,
    paint_hair_behind,
    paint_hat,
)
from fedstrata.drawn_faces.people import BEARDS, HAIR_STYLES
from fedstrata.drawn_faces.scenes import OCCLUDERS
from tests.fedstrata.drawn_faces.conftest import Sitting


def test_a_bald_head_has_no_hair(sitting: Sitting) -> None:
    for style in ("bald", "long"):
        it = sitting.but(hair_style=HAIR_STYLES.index(style), hair=150.0)
        front = it.painted(lambda s, it=it: paint_hair(s, it.head, it.people))  # type: ignore[misc]
        behind = it.painted(lambda s, it=it: paint_hair_behind(s, it.head, it.people))  # type: ignore[misc]
        assert (front.any(), behind.any()) == (style == "long", style == "long")


def test_only_a_bob_and_long_hair_cover_the_ears(sitting: Sitting) -> None:
    covering = {
        style
        for index, style in enumerate(HAIR_STYLES)
        if covers_ears(sitting.but(hair_style=index).people).all()
    }
    assert covering == {"bob", "long"}


def test_a_beard_is_painted_for_who_wears_one(sitting: Sitting) -> None:
    for index, beard in enumerate(BEARDS):
        it = sitting.but(beard=index, brow_colour=120.0)
        made = it.painted(lambda s, it=it: paint_beard(s, it.head, it.people))  # type: ignore[misc]
        assert bool(made.any()) == (beard != "none")


def test_a_hat_is_an_occluder(sitting: Sitting) -> None:
    for occluder in OCCLUDERS:
        it = sitting.but(occluder=OCCLUDERS.index(occluder), occluder_colour=200.0)
        made = it.painted(lambda s, it=it: paint_hat(s, it.head, it.people, it.scenes))  # type: ignore[misc]
        assert bool(made.any()) == (occluder == "hat")
