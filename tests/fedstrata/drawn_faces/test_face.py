"""The skin shows the marks of age that a person has."""

import numpy as np

from fedstrata.drawn_faces.face import paint_age, paint_body, paint_ear, paint_nose, paint_skin
from tests.fedstrata.drawn_faces.conftest import N, Sitting


def test_wrinkles_folds_and_bags_are_as_strong_as_the_person_has_them(sitting: Sitting) -> None:
    none = sitting.but(wrinkles=0.0, folds=0.0, bags=0.0, smile=0.0)
    some = sitting.but(wrinkles=1.0, folds=1.0, bags=1.0, smile=0.0)
    young, old = (
        it.painted(lambda s, it=it: paint_age(s, it.head, it.people, it.scenes))  # type: ignore[misc]
        for it in (none, some)
    )
    assert not young.any()
    assert old.any(axis=(1, 2, 3)).all()


def test_an_ear_is_painted_where_it_is_shown(sitting: Sitting) -> None:
    shown = np.arange(N) == 1
    made = sitting.painted(lambda s: paint_ear(s, sitting.head, sitting.people, 1.0, shown))
    assert made.any(axis=(1, 2, 3)).tolist() == shown.tolist()


def test_skin_nose_and_body_are_in_every_picture(sitting: Sitting) -> None:
    it = sitting
    for made in (
        it.painted(lambda s: paint_skin(s, it.head, it.people, it.scenes)),
        it.painted(lambda s: paint_nose(s, it.head, it.people, it.scenes)),
        it.painted(lambda s: paint_body(s, it.people, it.scenes)),
    ):
        assert made.any(axis=(1, 2, 3)).all()
