"""Two nodes under one name, in the beginning."""

from __future__ import annotations

import pytest

from fedstrata.support.errors import UserError
from server_app.sites.joining import check_name
from tests.helpers.members import member


def test_two_connected_nodes_cannot_have_one_name() -> None:
    with pytest.raises(UserError, match=r"two nodes call themselves 'north' \(1 and 2\)"):
        check_name({"north": member(node_id=1)}, member(node_id=2), {1, 2})


def test_a_node_that_came_back_has_its_old_name() -> None:
    check_name({"north": member(node_id=1)}, member(node_id=2), {2})
