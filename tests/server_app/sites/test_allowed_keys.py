"""Which node may be which site."""

from __future__ import annotations

import pytest

from fedstrata.support.errors import UserError
from server_app.sites.allowed_keys import AllowedSite, AllowedSites

NORTH = AllowedSite("north", "grade", 7, "SHA256:x")
ALLOWED = AllowedSites([NORTH])


@pytest.mark.parametrize(
    ("node", "site", "task", "reason"),
    [
        (7, "north", "grade", None),
        (7, "", "", None),
        (8, "north", "grade", "the roster has no site with this node's key"),
        (7, "south", "grade", "its key SHA256:x belongs to 'north'"),
        (7, "north", "stage", "the task 'stage', but the roster says 'grade'"),
    ],
)
def test_only_the_node_of_a_site_may_be_it(
    node: int, site: str, task: str, reason: str | None
) -> None:
    objection = ALLOWED.objection(node, site, task)
    assert objection is None if reason is None else reason in str(objection)


def test_one_site_has_one_key() -> None:
    with pytest.raises(ValueError, match="one site or one node"):
        AllowedSites([NORTH, AllowedSite("south", "grade", 7, "SHA256:y")])


def test_a_roster_can_be_cut_to_some_sites() -> None:
    whole = AllowedSites([NORTH, AllowedSite("south", "grade", 8, "SHA256:y")])
    assert set(whole.only(["south"]).by_node) == {8}
    with pytest.raises(
        UserError, match=r"names 'soutj', and the roster has north, south; nearest: 's"
    ):
        whole.only(["north", "soutj"])
