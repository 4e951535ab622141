"""Sites share examples, and splits are drawn, so that neither cuts through what belongs together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client_app.data.findings import Findings
from client_app.data.labels import Targets
from client_app.data.sharing import ExampleOptions, Labelled, Share, draw_splits, share_of_site
from client_app.data.site_info import SiteInfo
from client_app.data.site_split import ALONE, Rank, SiteSplit
from fedstrata.protocol.task_kinds import ONE_CLASS_EACH
from fedstrata.support.errors import UserError, private

OPTIONS = ExampleOptions(["", "na"], False, ".", None, "refuse", "patient")


def labelled(
    many=60, *, of_group=4, grouped=True, splits=None, domains=None, copies=None, labels=None
):
    rows = np.arange(many)
    values = rows % 2 if labels is None else np.array(labels)
    return Labelled(
        Targets(rows, ("a", "b"), values.astype(np.int64), ONE_CLASS_EACH),
        splits or [None] * many,
        rows if copies is None else copies,
        lambda row: private(f"{row}.png"),
        "picture",
        domains,
        [f"p{row // of_group}" for row in rows],
        "patient",
        grouped,
    )


def share(every, scheme="iid", rank=ALONE, findings=None, duplicates="refuse") -> Share:
    split = SiteSplit(scheme, 5.0, 1, 1, "ward")
    found = Findings() if findings is None else findings
    info = SiteInfo(None, None, None, None, None, findings=found)
    options = replace(OPTIONS, duplicates=duplicates)
    return share_of_site(every, options, split, rank, 1, info)


def patients(rows) -> set[int]:
    return {int(row) // 4 for row in rows}


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "pathological", "linear"])
def test_a_group_is_at_one_site_and_every_example_somewhere(scheme) -> None:
    shares = [share(labelled(), scheme, Rank(site, 3)).rows for site in range(3)]
    assert sorted(np.concatenate(shares)) == list(range(60))
    for one in range(3):
        for other in range(one):
            assert not patients(shares[one]) & patients(shares[other])


def test_sites_of_one_value_share_its_groups() -> None:
    domains = [f"w{row // 20}" for row in range(60)]
    shares = [share(labelled(domains=domains), "domain", Rank(site, 6)) for site in range(6)]
    assert [each.source for each in shares] == ["w0", "w1", "w2"] * 2
    assert not patients(shares[0].rows) & patients(shares[3].rows)
    assert len(shares[0].rows) + len(shares[3].rows) == 20


def test_a_group_is_on_one_side_of_drawn_splits() -> None:
    found = Findings()
    own = share(labelled(), findings=found)
    parts = draw_splits(own, np.arange(60), 0.1, 0.2, 1, found)
    sides = [patients(rows) for rows in parts]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 15
    assert found.groups == {"by": "patient", "groups": 15, "on_both_sides": 0}


def test_without_the_option_the_groups_on_both_sides_are_a_warning() -> None:
    found = Findings()
    own = share(labelled(grouped=False), findings=found)
    draw_splits(own, np.arange(60), 0.1, 0.2, 1, found)
    assert found.groups is None
    assert found.warnings[0].whole.endswith("on one side write data.group=patient")


def test_given_splits_and_sites_that_cut_a_group_are_refused() -> None:
    splits = ["train"] * 30 + ["test"] * 30
    found = Findings()
    with pytest.raises(UserError, match=r"1 of 15 groups by 'patient'.*two splits"):
        share(labelled(splits=splits), findings=found)
    assert found.groups["on_both_sides"] == 1
    domains = ["w0"] * 30 + ["w1"] * 30
    with pytest.raises(UserError, match=r"1 of 15 groups by 'patient'.*two sites"):
        share(labelled(domains=domains), "natural", Rank(0, 2))
    share(labelled(domains=domains), "natural")  # one site has all


def test_copies_are_at_one_site_without_a_group() -> None:
    copies = np.arange(60) // 2 * 2
    every = labelled(copies=copies, grouped=False, labels=[0] * 30 + [1] * 30)
    shares = [set(copies[share(every, rank=Rank(site, 2)).rows]) for site in range(2)]
    assert not shares[0] & shares[1]
    free = [share(every, rank=Rank(site, 2), duplicates="keep").rows for site in range(2)]
    alone = labelled(grouped=False, labels=[0] * 30 + [1] * 30)
    expected = [share(alone, rank=Rank(site, 2)).rows for site in range(2)]
    assert [rows.tolist() for rows in free] == [rows.tolist() for rows in expected]


def test_values_that_no_site_has_are_a_warning() -> None:
    found = Findings()
    domains = [f"w{row // 20}" for row in range(60)]
    share(labelled(domains=domains), "natural", Rank(0, 2), found)
    (warning,) = found.warnings
    assert warning.whole.startswith("1 of 3 values of 'ward' belong to no site (w2)")
    assert "'num-supernodes=3'" in warning.whole


def test_values_of_sites_that_look_the_same_are_a_warning() -> None:
    found = Findings()
    domains = [("North", "north ", "South")[row // 20] for row in range(60)]
    share(labelled(domains=domains), "natural", Rank(0, 3), found)
    (warning,) = found.warnings
    assert warning.whole.startswith("'North' and 'north ' of 'ward' differ only in case")
    assert warning.public.startswith("values of 'ward' differ only in case")


def test_a_class_with_too_few_examples_for_its_splits_is_a_warning() -> None:
    found = Findings()
    own = share(labelled(labels=[0] * 59 + [1], of_group=1), findings=found)
    draw_splits(own, np.arange(60), 0.1, 0.2, 1, found)
    (warning,) = found.warnings
    assert "'b' has 1 for training, 0 for validation and 0 for testing" in warning.whole


def test_a_share_follows_the_pictures_that_could_be_read() -> None:
    own = share(labelled(8)).take(np.array([0, 1, 1, 7]))
    assert own.rows.tolist() == [0, 1, 1, 7]
    assert own.own.targets.values.tolist() == [0, 1, 1, 1]
    assert own.own.where(3).whole == "7.png"
    assert own.numbers.tolist() == [0, 0, 0, 1]


def test_options_are_checked() -> None:
    wrong = ExampleOptions([], False, ".", {"x": "exam"}, "refuse", None)
    with pytest.raises(UserError, match=r"data\.split_names\.x: train, validation or test"):
        wrong.check_examples()
