"""A bundle is unpacked into a new folder of its own, or refused and nothing is left of it."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from pathlib import Path

import pytest

from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from site_guard.bundles import MOST_UNPACKED, Bundle, build
from site_guard.guard import Guard
from tests.helpers.tiny_app import (
    APP,
    OUTSIDE,
    PYPROJECT,
    ask,
)


def test_a_bundle_is_unpacked_anew_each_time(tmp_path: Path, tiny: bytes) -> None:
    whole = Bundle(tiny, "somebody/tiny", "1.0.0")
    (folder, app), (other, _) = whole.unpack(tmp_path / "x"), whole.unpack(tmp_path / "x")
    assert folder != other
    assert folder.stat().st_mode & 0o777 == 0o700
    assert app.is_relative_to(folder)
    assert (app / "app.py").read_text().endswith(APP)
    assert whole.digest == hashlib.sha256(tiny).hexdigest()


def test_nothing_is_left_of_a_bundle_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read: BadZipFile"):
        Bundle(b"no zip at all", "somebody/tiny", "1.0.0").unpack(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_no_app_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no app that can be bundled"):
        build(tmp_path)


def test_a_damaged_or_hostile_bundle_is_refused(guard: Guard) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(MOST_UNPACKED + 1))
    cache = Path(guard.settings.cache)
    before = guard.process.started, set(cache.rglob("pyproject.toml"))
    for content, found in (
        (b"no zip at all", "BadZipFile"),
        (bomb.getvalue(), "bytes unpacked"),
        (packed("no toml"), "ValueError"),
        (packed(PYPROJECT.replace("1.0.0", OUTSIDE)), "outside its folder"),
        (packed(PYPROJECT.replace("1.0.0", r"1\\2")), "outside its folder"),
        (packed(PYPROJECT.replace("somebody", "../../../some")), "outside its folder"),
        (packed(PYPROJECT.replace("tiny", "../../../tiny")), "outside its folder"),
        (packed(PYPROJECT, PYPROJECT.replace("1.0.0", OUTSIDE)), "empty, '.' or '..'"),
    ):
        error = ask(guard, content).error
        assert error.startswith("refused by the site: the app bundle")
        assert found in error
        assert tempfile.gettempdir() not in error
    assert (guard.process.started, set(cache.rglob("pyproject.toml"))) == before


def packed(pyproject: str, again: str | None = None) -> bytes:
    """Return a bundle that holds this file alone, which `build_fab_from_disk` might not take.

    With ``again`` the same file follows under another name, and is what is unpacked.
    """
    last = pyproject if again is None else again
    listed = f"pyproject.toml,{hashlib.sha256(last.encode()).hexdigest()},8"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("pyproject.toml", pyproject)
        if again is not None:
            archive.writestr("./pyproject.toml", again)
        archive.writestr(".info/CONTENT", listed)
    return made.getvalue()
