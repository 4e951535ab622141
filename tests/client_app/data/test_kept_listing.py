"""A simulation's listing is made once a machine, never taken where anything of it changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_app.data import kept_listing as module
from client_app.data.findings import Findings
from client_app.data.kept_listing import FOLDER, Listing, kept_listing, listing_key
from client_app.data.labels import Targets
from fedstrata.protocol.task_kinds import NUMBER, ONE_CLASS_EACH, TaskKind
from fedstrata.support.errors import UserError, private

NAMES = ("a/1.png", "b/ü\udcff.png", "c.png")
KEY = listing_key("images", 1)


def made(kind: TaskKind = ONE_CLASS_EACH) -> Listing:
    values = np.array([0, 1, 0]) if kind is ONE_CLASS_EACH else np.array([[1.5], [np.nan], [0]])
    targets = Targets(
        np.arange(3),
        ("no", "yes") if kind is ONE_CLASS_EACH else ("age",),
        values.astype(np.int64 if kind is ONE_CLASS_EACH else np.float32),
        kind,
    )
    return Listing(NAMES, ("train", None, "test"), ("x", "", "y"), ("p1", "p1", ""), "pat", targets)


class Lister:
    """Counts how often a listing is made."""

    def __init__(self, listing: Listing) -> None:
        self.listing, self.calls = listing, 0

    def __call__(self, findings: Findings) -> Listing:
        self.calls += 1
        findings.leave_out("suffix", private("x.txt", "a file"), 3)
        findings.note(private("whole", "public"))
        findings.warn("beware")
        return self.listing


def listed(cache: Path | None, lister, key: str = KEY, after: str | None = None) -> Listing:
    kind = lister.listing.targets.kind
    found = Findings()
    listing = kept_listing(cache, key, lambda: after or key, kind, found, lister)
    assert found.left_out == {"suffix": 3}
    assert found.notes == [private("whole", "public")]
    assert found.notes[0].whole == "whole"
    assert [warning.whole for warning in found.warnings] == ["beware"]
    return listing


@pytest.mark.parametrize("kind", [ONE_CLASS_EACH, TaskKind(NUMBER)])
def test_a_listing_is_made_once_and_is_the_same_afterwards(tmp_path, kind) -> None:
    lister = Lister(made(kind))
    first, second = (listed(tmp_path, lister) for _ in range(2))
    assert lister.calls == 1
    assert tuple(second.names) == NAMES
    assert tuple(second.splits) == tuple(first.splits)
    assert tuple(second.domains) == tuple(first.domains)
    assert tuple(second.groups) == tuple(first.groups)
    assert second.group_by == first.group_by
    assert second.targets.classes == first.targets.classes
    assert second.targets.values.dtype == first.targets.values.dtype
    np.testing.assert_array_equal(second.targets.values, first.targets.values)


def test_another_key_or_no_cache_lists_anew(tmp_path) -> None:
    lister = Lister(made())
    listed(tmp_path, lister)
    listed(tmp_path, lister, key=listing_key("images", 2))
    listed(None, lister)
    assert lister.calls == 3


def test_what_changed_while_it_was_listed_is_not_kept(tmp_path) -> None:
    lister = Lister(made())
    for calls in (1, 2):
        listed(tmp_path, lister, after=listing_key("other"))
        assert lister.calls == calls


def test_another_version_of_the_code_lists_anew(monkeypatch) -> None:
    monkeypatch.setattr(module, "_code", lambda: "other")
    assert listing_key("images", 1) != KEY


def test_only_its_owner_can_read_it(tmp_path) -> None:
    listed(tmp_path, Lister(made()))
    (kept,) = (tmp_path / FOLDER).iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_few_are_kept_and_those_used_last_stay(tmp_path) -> None:
    lister = Lister(made())
    keys = [listing_key(number) for number in range(module.MOST + 1)]
    for number, key in enumerate(keys[:-1]):
        listed(tmp_path, lister, key=key)
        os.utime(tmp_path / FOLDER / f"{key}{module.SUFFIX}", (number, number))
    listed(tmp_path, lister, key=keys[0])
    listed(tmp_path, lister, key=keys[-1])
    assert len(list((tmp_path / FOLDER).iterdir())) == module.MOST
    before = lister.calls
    listed(tmp_path, lister, key=keys[0])
    assert lister.calls == before


def test_one_that_is_too_large_is_not_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 10)
    listed(tmp_path, Lister(made()))
    assert not list((tmp_path / FOLDER).iterdir())


def test_an_error_says_what_was_found_before_it(tmp_path) -> None:
    def fail(findings: Findings) -> Listing:
        findings.leave_out("hidden", ".x")
        raise UserError("wrong")

    for cache in (tmp_path, None):
        found = Findings()
        with pytest.raises(UserError, match="wrong"):
            kept_listing(cache, KEY, lambda: KEY, ONE_CLASS_EACH, found, fail)
        assert found.left_out == {"hidden": 1}


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    lister = Lister(made())
    listed(tmp_path / "cache", lister)
    assert lister.calls == 1


def kept_file(cache: Path) -> Path:
    listed(cache, Lister(made()))
    (kept,) = (cache / FOLDER).iterdir()
    return kept


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_damaged_one_is_made_again(tmp_path_factory, data) -> None:
    cache = tmp_path_factory.mktemp("cache")
    kept = kept_file(cache)
    content = bytearray(kept.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    kept.write_bytes(content[: data.draw(st.integers(place + 1, len(content)))])
    lister = Lister(made())
    assert tuple(listed(cache, lister).names) == NAMES
    assert lister.calls == 1


def forged(cache: Path, **changes: object) -> None:
    """Write a listing with sound checksums and other contents."""
    kept = kept_file(cache)
    stored = msgspec.msgpack.decode(kept.read_bytes()[64:], type=module._Stored)
    content = msgspec.msgpack.encode(msgspec.structs.replace(stored, **changes))
    digest = module.hashlib.sha256(content).digest()
    kept.write_bytes(bytes.fromhex(KEY) + digest + content)


@pytest.mark.parametrize(
    "changes",
    [
        {"names": b"../x.png\0b\0c"},
        {"names": b"a/../../x.png\0b\0c"},
        {"names": b"/etc/passwd\0b\0c"},
        {"names": b"a/..\0b\0c"},
        {"names": b"a\0b"},
        {"names": b"\0b\0c"},
        {"splits": bytes([0, 1, 9])},
        {"values": np.array([0, 1, 2]).tobytes()},
        {"values": np.array([0, -1, 1]).tobytes()},
        {"values": b"short"},
        {"domains": ["one"]},
    ],
)
def test_a_forged_one_is_made_again(tmp_path, changes) -> None:
    forged(tmp_path, **changes)
    lister = Lister(made())
    assert tuple(listed(tmp_path, lister).names) == NAMES
    assert lister.calls == 1


def test_a_link_in_its_place_is_not_followed(tmp_path) -> None:
    kept = kept_file(tmp_path)
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    lister = Lister(made())
    listed(tmp_path, lister)
    assert lister.calls == 1
