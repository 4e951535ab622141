"""Sites that share a folder hold disjoint shares that cover it, the same ones for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data import Seat
from client_app.data.partition import ALONE, PartitionOptions, Place, place_of, share
from models.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 5, 300)


def scheme(name: str, **changes: object) -> PartitionOptions:
    given = {"alpha": 0.5, "smallest": 3, "classes_per_site": 2, "column": "ward"}
    return PartitionOptions(scheme=name, **{**given, **changes})


def shares(options, of: int, seed: int = 1, natural=None) -> list[np.ndarray]:
    return [share(options, LABELS, Place(number, of), seed, natural) for number in range(of)]


@pytest.mark.parametrize("name", ["iid", "dirichlet", "pathological"])
def test_shares_are_disjoint_cover_everything_and_follow_the_seed(name) -> None:
    held = shares(scheme(name), 6)
    assert sorted(np.concatenate(held)) == list(range(300))
    again, other = shares(scheme(name), 6), shares(scheme(name), 6, seed=2)
    assert all((one == two).all() for one, two in zip(held, again, strict=True))
    assert any(one.tolist() != two.tolist() for one, two in zip(held, other, strict=True))


def test_each_scheme_does_what_it_says() -> None:
    sizes = [len(rows) for rows in shares(scheme("iid"), 7)]
    assert max(sizes) - min(sizes) <= 1
    for rows in shares(scheme("pathological"), 6):
        assert len(set(LABELS[rows])) == 2
    skewed = shares(scheme("dirichlet", alpha=0.1, smallest=1), 3)
    even = shares(scheme("dirichlet", alpha=1000.0), 3)

    def unevenness(held):
        return np.std([np.bincount(LABELS[rows], minlength=5) for rows in held], axis=0).mean()

    assert unevenness(skewed) > 5 * unevenness(even)
    assert min(len(rows) for rows in shares(scheme("dirichlet", smallest=20), 5)) >= 20


def test_natural_shares_are_the_column_s_values() -> None:
    wards = np.array(["b", "a", "c"])[np.arange(300) % 3]
    for value, rows in zip("abc", shares(scheme("natural"), 3, natural=wards), strict=True):
        assert set(wards[rows]) == {value}
        assert len(rows) == 100
    with pytest.raises(UserError, match="'num-supernodes=3'"):
        shares(scheme("natural"), 4, natural=wards)
    with pytest.raises(UserError, match="needs a manifest"):
        shares(scheme("natural"), 3)


def test_alone_or_by_choice_a_site_keeps_everything() -> None:
    assert share(scheme("dirichlet"), LABELS, ALONE, 1).tolist() == list(range(300))
    assert share(scheme("none"), LABELS, Place(1, 4), 1).tolist() == list(range(300))


def test_what_cannot_be_shared_out_is_told() -> None:
    with pytest.raises(UserError, match="classes_per_site=4 or more"):
        shares(scheme("pathological"), 2)
    with pytest.raises(UserError, match="301 sites"):
        shares(scheme("iid"), 301)
    with pytest.raises(UserError, match="dirichlet"):
        shares(scheme("dirichlet", smallest=200), 3)
    with pytest.raises(UserError, match="classes_per_partition"):
        shares(scheme("pathological", classes_per_site=6), 3)
    for changes in ({"alpha": 0.0}, {"alpha": float("nan")}, {"classes_per_site": 0}):
        with pytest.raises(UserError, match=next(iter(changes))):
            scheme("iid", **changes)
    with pytest.raises(UserError, match="there is 'iid'"):
        scheme("idd")
    with pytest.raises(UserError, match=r"data\.partition\.column"):
        scheme("natural", column=None)


def test_sites_of_one_task_get_the_places_of_that_task() -> None:
    seats = [Seat(site=None, task=None, index=index, count=7, root=None) for index in range(7)]
    placed = [place_of(seat, tasks=3) for seat in seats]
    assert [task for task, _ in placed] == [0, 1, 2, 0, 1, 2, 0]
    assert [place for task, place in placed if task == 0] == [Place(n, 3) for n in range(3)]
    assert [place for task, place in placed if task == 2] == [Place(n, 2) for n in range(2)]
    assert place_of(Seat(None, None, None, None, None), tasks=3) == (0, ALONE)
    with pytest.raises(UserError, match="num-partitions"):
        place_of(Seat(None, None, 1, None, None))
