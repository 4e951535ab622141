"""Scenes have the labels that they are made for."""

import numpy as np

from fedstrata.drawn_faces.scenes import FRONTAL_YAW, MOUTHS, TURNED_YAW, make_scenes

N = 400
LABELS = {name: np.arange(N) % m == 0 for name, m in (("turned", 2), ("teeth", 3), ("glasses", 5))}
SCENES = make_scenes(np.random.default_rng(0), **LABELS)


def test_a_turned_head_is_turned_further_than_any_frontal_one() -> None:
    degrees = np.abs(np.degrees(SCENES.yaw))
    assert (degrees[SCENES.turned] >= TURNED_YAW[0]).all()
    assert (degrees[~SCENES.turned] <= FRONTAL_YAW).all()


def test_teeth_are_seen_in_other_mouths_than_no_teeth() -> None:
    shows = np.isin(SCENES.mouth, [MOUTHS.index(each) for each in ("smile", "grin", "talking")])
    assert np.array_equal(shows, SCENES.teeth)


def test_labels_change_no_other_random_choice() -> None:
    none = make_scenes(np.random.default_rng(0), **{k: np.zeros(N, bool) for k in LABELS})
    assert np.array_equal(none.light_angle, SCENES.light_angle)
    assert np.array_equal(none.clothes, SCENES.clothes)


def test_rows_are_taken_from_all_fields() -> None:
    part = SCENES.take(slice(3, 7))
    assert np.array_equal(part.yaw, SCENES.yaw[3:7])
    assert part.clothes.shape == (4, 3)
