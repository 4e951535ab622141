"""Sites that share examples have disjoint shares that cover them, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import IidPartitioner
from hypothesis import given
from hypothesis import strategies as st

from client_app.data import site_split
from client_app.data.site_info import SiteInfo
from client_app.data.site_split import (
    ALONE,
    BY_CLASS,
    SHARE_SIZES,
    Rank,
    SiteSplit,
    rank_of,
    rows_of_site,
    seed_of_split,
)
from fedstrata.support.errors import UserError
from fedstrata.support.seeds import derive_seed

LABELS = np.random.default_rng(0).integers(0, 5, 300)


def scheme(name: str, **changes: object) -> SiteSplit:
    given = {"alpha": 0.5, "smallest": 3, "classes_per_site": 2, "column": "ward"}
    return SiteSplit(scheme=name, **{**given, **changes})


def shares(options, of: int, seed: int = 1, natural=None) -> list[np.ndarray]:
    return [rows_of_site(options, LABELS, Rank(number, of), seed, natural) for number in range(of)]


@pytest.mark.parametrize("name", ["iid", *BY_CLASS, *SHARE_SIZES])
def test_shares_are_disjoint_cover_everything_and_follow_the_seed(name) -> None:
    first = shares(scheme(name), 5)
    assert sorted(np.concatenate(first)) == list(range(300))
    again, other = shares(scheme(name), 5), shares(scheme(name), 5, seed=2)
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert any(one.tolist() != two.tolist() for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("sites", [2, 7, 299])
def test_equal_shares_are_those_of_flowers_partitioner(sites) -> None:
    partitioner = IidPartitioner(sites)
    order = np.random.default_rng(3).permutation(len(LABELS))
    partitioner.dataset = Dataset.from_dict({"row": order.tolist()})
    for number in (0, sites // 2, sites - 1):
        mine = rows_of_site(scheme("iid"), LABELS, Rank(number, sites), 3)
        assert mine.dtype == np.int64
        assert mine.tolist() == sorted(partitioner.load_partition(number)["row"])


def test_the_seed_of_a_split_is_the_one_of_earlier_runs() -> None:
    assert seed_of_split(1, "images", "label") == derive_seed(1, "images", "partition", "label")


def test_each_scheme_does_what_it_says() -> None:
    sizes = [len(rows) for rows in shares(scheme("iid"), 7)]
    assert max(sizes) - min(sizes) <= 1
    for rows in shares(scheme("pathological"), 6):
        assert len(set(LABELS[rows])) == 2
    skewed = shares(scheme("dirichlet", alpha=0.1, smallest=1), 3)
    even = shares(scheme("dirichlet", alpha=1000.0), 3)

    def unevenness(rows_of_sites):
        return np.std(
            [np.bincount(LABELS[rows], minlength=5) for rows in rows_of_sites], axis=0
        ).mean()

    assert unevenness(skewed) > 5 * unevenness(even)
    assert min(len(rows) for rows in shares(scheme("dirichlet", smallest=20), 5)) >= 20
    balanced = shares(scheme("dirichlet_balanced", alpha=0.1, smallest=1), 3)
    assert max(map(len, balanced)) < max(map(len, skewed))


def test_natural_gives_each_site_one_value() -> None:
    wards = np.array(["b", "a", "c"])[np.arange(300) % 3]
    for value, rows in zip("abc", shares(scheme("natural"), 3, natural=wards), strict=True):
        assert set(wards[rows]) == {value}
        assert len(rows) == 100
    with pytest.raises(UserError, match=r"'num-supernodes=3'.*scheme=domain"):
        shares(scheme("natural"), 4, natural=wards)
    with pytest.raises(UserError, match="needs a manifest"):
        shares(scheme("natural"), 3)


def test_a_site_alone_or_with_scheme_none_has_everything() -> None:
    assert rows_of_site(scheme("dirichlet"), LABELS, ALONE, 1).tolist() == list(range(300))
    assert rows_of_site(scheme("none"), LABELS, Rank(1, 4), 1).tolist() == list(range(300))


def test_impossible_splits_are_reported() -> None:
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
    for name in ("natural", "domain"):
        with pytest.raises(UserError, match=rf"data\.site_split\.column: .*'{name}'"):
            scheme(name, column=None).required_column()
        assert scheme(name).required_column() == "ward"
    assert scheme("iid", column=None).required_column() is None


def test_sites_of_one_task_have_ranks_among_themselves() -> None:
    infos = [SiteInfo(site=None, task=None, index=index, count=7, root=None) for index in range(7)]
    ranks = [rank_of(info, tasks=3) for info in infos]
    assert [task for task, _ in ranks] == [0, 1, 2, 0, 1, 2, 0]
    assert [rank for task, rank in ranks if task == 0] == [Rank(n, 3) for n in range(3)]
    assert [rank for task, rank in ranks if task == 2] == [Rank(n, 2) for n in range(2)]
    assert rank_of(SiteInfo(None, None, None, None, None), tasks=3) == (0, ALONE)
    with pytest.raises(UserError, match="num-partitions"):
        rank_of(SiteInfo(None, None, 1, None, None))


def cut(name: str, rows: int, of: int, seed: int, natural=None) -> list[np.ndarray]:
    """Return every site's share of the first ``rows`` labels."""
    given = None if natural is None else natural[:rows]
    return [rows_of_site(scheme(name), LABELS[:rows], Rank(n, of), seed, given) for n in range(of)]


@given(
    st.sampled_from(list(SHARE_SIZES)),
    st.integers(60, 300),
    st.integers(2, 5),
    st.integers(0, 2**62),
)
def test_unequal_shares_are_disjoint_cover_everything_and_repeat(name, rows, of, seed) -> None:
    if name == "exponential":
        of = min(of, 4)
    first = cut(name, rows, of, seed)
    assert sorted(np.concatenate(first)) == list(range(rows))
    assert all(one.tolist() == sorted(one) for one in first)
    again = cut(name, rows, of, seed)
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    # Site i has floor(rows * f(i) / sum of f), and the last what the floors left over.
    power = {"linear": lambda i: i, "square": lambda i: i**2, "exponential": np.exp}[name]
    parts = power(np.arange(1, of + 1.0))
    expected = rows * parts / parts.sum()
    assert all(0 <= e - len(one) < 1 for e, one in zip(expected[:-1], first, strict=False))
    assert 0 <= len(first[-1]) - expected[-1] < of


def test_unequal_shares_have_the_same_mix_of_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 20_000)
    for name in SHARE_SIZES:
        for number in range(4):
            rows = rows_of_site(scheme(name), labels, Rank(number, 4), 1)
            spread = np.sqrt(0.2 * 0.8 / len(rows))  # of a share of 20 % among that many
            assert np.abs(np.bincount(labels[rows]) / len(rows) - 0.2).max() < 5 * spread


@pytest.mark.filterwarnings("error::RuntimeWarning")  # e^1000 overflows
@pytest.mark.parametrize(
    ("name", "rows", "fits"),
    # the smallest share: 1/55 of 55, 1/385 of 385, and e^-(n-1) (1 - 1/e) / (1 - e^-n) of 5,000,
    # which is 1.06 for 9 sites and 0.39 for 10
    [("linear", 55, 10), ("square", 385, 10), ("exponential", 5000, 9)],
)
def test_empty_shares_are_rejected_at_every_site(name, rows, fits) -> None:
    labels = np.zeros(rows, dtype=np.int64)
    assert min(len(rows_of_site(scheme(name), labels, Rank(n, fits), 1)) for n in range(fits)) == 1
    for of in (fits + 1, min(rows, 1000)):
        for number in (0, of - 1):
            with pytest.raises(
                UserError, match=f"{of} sites.*start {fits} sites or fewer"
            ) as raised:
                rows_of_site(scheme(name), labels, Rank(number, of), 1)
            assert f"({name})" in str(raised.value)
            assert f"num-supernodes={fits}'" in str(raised.value)


@given(st.integers(20, 300), st.integers(1, 4), st.integers(2, 9), st.integers(0, 2**62))
def test_sites_take_the_domains_in_turn(rows, many, of, seed) -> None:
    domains = np.array(["d", "a", "c", "b"])[np.arange(300) % many]
    first = cut("domain", rows, of, seed, domains)
    values = sorted(set(domains[:rows].tolist()))
    for number, own in enumerate(first):
        assert set(domains[own]) == {values[number % many]}
    everything = np.concatenate(first)
    assert len(everything) == len(set(everything))
    no_site_s = set(values[of:])  # fewer sites than domains
    assert set(everything) == {r for r in range(rows) if domains[r] not in no_site_s}
    for value in range(min(many, of)):
        sizes = [len(own) for own in first[value::many]]
        assert max(sizes) - min(sizes) <= 1
    again = cut("domain", rows, of, seed, domains)
    assert all((one == two).all() for one, two in zip(first, again, strict=True))


def test_a_domain_is_split_at_random_and_must_have_enough_examples() -> None:
    domains = np.array(["a", "b"])[(np.arange(300) >= 298).astype(int)]
    one, other = (shares(scheme("domain"), 4, seed, domains)[0].tolist() for seed in (1, 2))
    assert one != other
    with pytest.raises(UserError, match="'b' has 2 examples for the 3 sites"):
        shares(scheme("domain"), 6, 1, domains)
    with pytest.raises(UserError, match=r"'domain' needs a manifest.*data\.domains=true"):
        shares(scheme("domain"), 6)
    assert rows_of_site(scheme("domain"), LABELS, ALONE, 1, domains).tolist() == list(range(300))


def test_the_shares_of_all_sites_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(4).integers(0, 3, 90)
    options = scheme("dirichlet", alpha=1.0, smallest=1)
    site_split._drawn.clear()
    drawn: list[int] = []
    plain = site_split._undrawn

    def counted(*given: Any) -> Any:
        drawn.append(1)
        return plain(*given)

    monkeypatch.setattr(site_split, "_undrawn", counted)
    every = [rows_of_site(options, labels, Rank(i, 4), 7) for i in range(4)]
    assert len(drawn) == 1
    assert sorted(np.concatenate(every).tolist()) == list(range(90))
    for i in (3, 0):  # as if each had been drawn by itself
        site_split._drawn.clear()
        assert np.array_equal(rows_of_site(options, labels, Rank(i, 4), 7), every[i])
    before = len(drawn)
    other = labels.copy()
    other[0] = (other[0] + 1) % 3
    rows_of_site(options, other, Rank(0, 4), 7)
    rows_of_site(options, labels, Rank(0, 4), 8)
    rows_of_site(options, labels, Rank(0, 5), 7)
    assert len(drawn) == before + 3
