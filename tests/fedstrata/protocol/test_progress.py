"""progress.json: written at once or not at all, and read as an untrusted file."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrata.protocol.progress import (
    FILE,
    Progress,
    SiteProgress,
    read_progress,
    state_of_missed,
    write_progress,
)
from fedstrata.support.errors import UserError


def test_what_is_written_is_read_and_is_its_owners_alone(tmp_path: Path) -> None:
    progress = Progress(
        state="running",
        round=3,
        rounds=8,
        sites={"site-00": SiteProgress(task="age", state="late", reason="no answer within 9 s")},
    )
    write_progress(tmp_path, progress)
    assert read_progress(tmp_path) == progress
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{}", '{"state": "well"}', '{"state": "running", "round": "x"}']
)
def test_another_content_is_an_error_that_names_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=r"progress\.json cannot be read"):
        read_progress(tmp_path)


@settings(max_examples=30)
@given(content=st.binary(max_size=200) | st.just(b"[" * 100_000))
def test_no_bytes_raise_anything_else(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / FILE).write_bytes(content)
    with contextlib.suppress(UserError):
        read_progress(folder)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("waiting for approval at clinic (request 7)", "waiting for approval"),
        ("training may begin here at 20:00-06:00, and it is 09:10", "closed"),
        ("no GPU", "refused"),
    ],
)
def test_a_sites_reason_says_what_it_waits_for(reason: str, state: str) -> None:
    assert state_of_missed("refused", reason) == state
