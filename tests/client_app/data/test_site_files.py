"""Which file of a folder is a site's."""

from __future__ import annotations

import pytest

from client_app.data.site_files import choose_file, files_of_sites
from client_app.data.site_info import SiteInfo
from fedstrata.support.errors import UserError

SUFFIXES = (".csv", ".parquet")


def site(name=None, index=None) -> SiteInfo:
    return SiteInfo(name, None, index, None, None)


@pytest.fixture
def two(tmp_path):
    for name in ("north.csv", "south.PARQUET", "notes.doc", ".hidden.csv"):
        (tmp_path / name).touch()
    return tmp_path


def test_files_of_sites_have_one_of_the_suffixes(two) -> None:
    assert [path.name for path in files_of_sites(two, SUFFIXES)] == ["north.csv", "south.PARQUET"]


def test_a_single_file_is_for_all(two) -> None:
    (two / "north.csv").unlink()
    assert choose_file(two, site("east"), None, SUFFIXES) == (two / "south.PARQUET", None)
    path = two / "south.PARQUET"
    assert choose_file(path, site("east"), None, SUFFIXES) == (path, None)


def test_a_named_file_is_for_all(two) -> None:
    assert choose_file(two, site(index=1), "north.csv", SUFFIXES) == (two / "north.csv", None)


def test_of_several_a_site_has_its_own(two) -> None:
    south = two / "south.PARQUET"
    assert choose_file(two, site("south"), None, SUFFIXES) == (south, "south")
    assert choose_file(two, site(index=1), None, SUFFIXES) == (south, "south")


@pytest.mark.parametrize(
    ("name", "index", "said"),
    [
        ("east", None, "has 2 .csv or .parquet files, none of them east.csv"),
        (None, None, "none of them this site.csv"),
        (None, 2, "has 2 files, one a site: start as many sites"),
    ],
)
def test_a_site_without_a_file_is_refused(two, name, index, said) -> None:
    with pytest.raises(UserError, match=said):
        choose_file(two, site(name, index), None, SUFFIXES)


def test_a_folder_without_files_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has no .csv or .parquet file; put one there"):
        choose_file(tmp_path, site("east"), None, SUFFIXES)


def test_two_files_of_one_name_are_refused(two) -> None:
    (two / "north.parquet").touch()
    with pytest.raises(UserError, match="the same name but for the suffix"):
        choose_file(two, site("north"), None, SUFFIXES)


def test_a_link_out_of_the_folder_is_refused(two) -> None:
    (two / "link.csv").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="is a link that leaves"):
        choose_file(two, site("north"), None, SUFFIXES)


def test_files_that_belong_to_no_site_are_a_warning(two) -> None:
    info = SiteInfo(None, None, 0, 1, two)
    choose_file(two, info, None, (".csv", ".parquet"))
    assert "1 of 2 files belong to no site" in info.findings.warnings[0].whole
    assert "num-supernodes=2" in info.findings.warnings[0].whole
