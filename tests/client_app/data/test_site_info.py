"""A loader gets the site's name, index and folder, or an error that says how to set them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from client_app.data.site_info import (
    default_name,
    name_of_site,
    reject_empty_splits,
    require_index,
    require_root,
)
from fedstrata.support.errors import UserError
from models.training.data import ArrayInputs, SiteData, Split


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (-1, None)])
def test_an_index_outside_the_count_is_rejected(index, count, info) -> None:
    with pytest.raises(UserError, match="partition-id"):
        info(index=index, count=count)


def test_an_index_is_required_with_a_count(info) -> None:
    assert require_index(info(1, 3), "data 'faces'") == (1, 3)
    for missing in (info(), info(index=1)):
        with pytest.raises(UserError, match=r"^data 'faces' needs.*partition-id=0 num-partitions="):
            require_index(missing, "data 'faces'")


def test_a_name_in_the_node_config_wins(info) -> None:
    assert name_of_site(info(3, 12, site="north"), "site-03") == "north"
    assert name_of_site(info(3, 12), "site-03") == "site-03"
    assert default_name(info(3, 12)) == "site-03"
    assert default_name(info()) == "site"


def test_the_root_is_absolute_and_exists(info, tmp_path) -> None:
    assert require_root(info(root=tmp_path)) == tmp_path
    for root, message in [
        (None, "data-root="),
        (Path("pictures"), "must be an absolute path: the app does not run in"),
        (tmp_path / "none", "does not exist on this site's machine"),
    ]:
        with pytest.raises(UserError, match=message):
            require_root(info(root=root))


def test_an_empty_split_is_reported_with_all_sizes() -> None:
    def split(size: int) -> Split:
        return Split(ArrayInputs(np.zeros((size, 2), np.float32)), np.zeros(size, np.int64))

    def data(*sizes: int) -> SiteData:
        return SiteData("north", "label", ("a", "b"), (2,), *map(split, sizes))

    whole = data(3, 2, 1)
    assert reject_empty_splits(whole) is whole
    with pytest.raises(UserError, match=r"'north'.*no examples in validation and test .*3, 0, 0"):
        reject_empty_splits(data(3, 0, 0))


def test_a_locked_folder_is_not_taken_for_an_empty_one(info) -> None:
    top = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    top.chmod(0o755)
    locked = top / "data"
    locked.mkdir(mode=0)
    root = os.geteuid() == 0
    if root:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            require_root(info(root=locked))
    finally:
        if root:
            os.seteuid(0)
        locked.rmdir()
        top.rmdir()
