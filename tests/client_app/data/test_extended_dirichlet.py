"""Extended Dirichlet: each site has at most so many classes, and every example one site."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data.extended_dirichlet import extended_dirichlet
from client_app.data.site_split import Rank, SiteSplit, rows_of_site
from fedstrata.support.errors import UserError

LABELS = np.arange(2000) % 10


def drawn(sites: int = 20, classes: int = 2, alpha: float = 1.0, smallest: int = 1, seed: int = 1):
    return extended_dirichlet(
        LABELS, sites, classes_per_site=classes, alpha=alpha, smallest=smallest, seed=seed
    )


@pytest.mark.parametrize(("sites", "classes"), [(20, 2), (10, 1), (5, 3), (3, 10)])
def test_each_example_has_one_site_and_no_site_more_classes_than_asked(sites, classes) -> None:
    parts = drawn(sites, classes)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(2000))
    assert max(len(np.unique(LABELS[part])) for part in parts) <= classes


def test_a_small_alpha_makes_shares_more_unequal() -> None:
    def spread(alpha: float) -> float:
        return float(np.mean([np.std([*map(len, drawn(alpha=alpha, seed=s))]) for s in range(5)]))

    assert spread(0.1) > 1.5 * spread(10.0)


def test_classes_are_given_to_equally_many_sites() -> None:
    parts = drawn(sites=20, classes=3, alpha=100.0)
    holders = [sum(kind in LABELS[part] for part in parts) for kind in range(10)]
    assert holders == [6] * 10


def test_the_seed_decides_and_no_site_has_fewer_than_asked() -> None:
    one, same, other = drawn(seed=1), drawn(seed=1), drawn(seed=2)
    assert all(a.tolist() == b.tolist() for a, b in zip(one, same, strict=True))
    assert [*map(len, one)] != [*map(len, other)]
    assert min(map(len, drawn(alpha=0.5, smallest=20))) >= 20


def test_what_cannot_be_split_is_named() -> None:
    with pytest.raises(UserError, match="classes_per_site: 11, and there are 10 classes"):
        drawn(classes=11)
    with pytest.raises(UserError, match="unused: use 4 or more"):
        drawn(sites=3, classes=2)
    with pytest.raises(UserError, match=r"lower data\.site_split\.smallest"):
        drawn(smallest=101)


def test_a_scheme_of_the_sites_is_called_so() -> None:
    options = SiteSplit("extended_dirichlet", 1.0, 1, 2, None)
    shares = [rows_of_site(options, LABELS, Rank(index, 20), 3) for index in range(20)]
    assert np.sort(np.concatenate(shares)).tolist() == list(range(2000))
    assert max(len(np.unique(LABELS[share])) for share in shares) <= 2
