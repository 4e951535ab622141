"""Files with the same bytes share a number, and a file is read once a machine."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from client_app.data import file_digests
from client_app.data.file_digests import SAMPLE, KeptDigests, digest_of, same_content
from fedstrata.support.errors import UserError


@pytest.fixture
def files(tmp_path) -> list[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    paths = []
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"longer"}.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (1, 1))
        paths.append(folder / name)
    return paths


@pytest.fixture
def read(monkeypatch) -> list[Path]:
    """Return the files that are read, and take new files for old ones."""
    seen: list[Path] = []
    digest = file_digests._digest

    def noted(file: file_digests._File) -> bytes | None:
        seen.append(Path(file.path))
        return digest(file)

    monkeypatch.setattr(file_digests, "_digest", noted)
    monkeypatch.setattr(file_digests, "_RACY", -(1 << 62))
    return seen


def test_equal_files_share_a_number(files, read) -> None:
    assert same_content(files[0].parent, files, None).tolist() == [0, 1, 0, 3]
    assert files[3] not in read  # no other has its size


def test_a_file_is_read_once(files, read, tmp_path) -> None:
    cache = tmp_path / "cache"
    first = same_content(files[0].parent, files, cache)
    assert len(read) == 3
    assert same_content(files[0].parent, files, cache).tolist() == first.tolist()
    assert len(read) == 3
    files[1].write_bytes(b"one")
    assert same_content(files[0].parent, files, cache).tolist() == [0, 0, 0, 3]
    assert read[3:] == [files[1]]


def test_empty_files_are_no_copies(files, read) -> None:
    for path in files[:2]:
        path.write_bytes(b"")
    assert same_content(files[0].parent, files, None).tolist() == [0, 1, 2, 3]


@pytest.fixture
def long_files(tmp_path) -> list[Path]:
    """Return five files of one size: copies, one with another end, two that differ where no sample is."""
    folder = tmp_path / "data"
    folder.mkdir()
    size = 3 * SAMPLE
    contents = {"a": b"", "b": b"", "end": b"", "start": b"", "also": b""}
    for name in contents:
        content = bytearray(size)
        if name == "end":
            content[-1] = 1
        if name in ("start", "also"):
            content[0] = 1
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_a_file_is_read_in_whole_only_where_its_sample_is_that_of_another(
    long_files, read, tmp_path
) -> None:
    folder, cache = long_files[0].parent, tmp_path / "cache"
    for _ in range(2):
        assert same_content(folder, long_files, cache).tolist() == [0, 0, 2, 3, 3]
        assert sorted(read) == sorted([*long_files[:2], *long_files[3:]])
    assert same_content(folder, long_files, None).tolist() == [0, 0, 2, 3, 3]


def test_what_decoded_a_file_and_what_looks_for_copies_share_their_digests(
    long_files, read, tmp_path
) -> None:
    folder, cache = long_files[0].parent, tmp_path / "cache"
    kept = KeptDigests(cache, str(folder))
    for path in long_files[:4]:
        kept.add(kept.find(path)[0], hashlib.sha256(path.read_bytes()).hexdigest())
    kept.save()
    assert same_content(folder, long_files, cache).tolist() == [0, 0, 2, 3, 3]
    assert read == long_files[4:]
    found = KeptDigests(cache, str(folder)).find(long_files[4])[1]
    assert found == hashlib.sha256(long_files[4].read_bytes()).hexdigest()


def test_a_sample_is_never_taken_for_the_digest_of_a_file(long_files, read, tmp_path) -> None:
    folder, cache = long_files[0].parent, tmp_path / "cache"
    same_content(folder, long_files, cache)
    assert KeptDigests(cache, str(folder)).find(long_files[2])[1] is None  # only sampled


def test_the_digest_of_a_file_that_is_gone_is_an_error_that_names_it(tmp_path) -> None:
    with pytest.raises(UserError, match=r"gone\.csv: cannot be read"):
        digest_of(tmp_path / "gone.csv")


def test_what_is_kept_names_no_file_and_is_private(files, read, tmp_path) -> None:
    same_content(files[0].parent, files, tmp_path / "cache")
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert b"data/" not in kept.read_bytes()


def test_damaged_digests_are_made_again(files, read, tmp_path) -> None:
    cache = tmp_path / "cache"
    expected = same_content(files[0].parent, files, cache).tolist()
    (kept,) = (cache / "digests").iterdir()
    kept.write_bytes(kept.read_bytes()[:-20])
    assert same_content(files[0].parent, files, cache).tolist() == expected
    assert len(read) == 6


def test_a_file_that_may_still_change_is_not_kept(files, tmp_path) -> None:
    cache = tmp_path / "cache"
    same_content(files[0].parent, files, cache)  # just written: their change time is now
    assert not list((cache / "digests").iterdir())


@pytest.mark.parametrize("cached", [False, True])
def test_files_that_cannot_be_read_are_no_copies(files, read, tmp_path, cached: bool) -> None:
    cache = tmp_path / "cache" if cached else None
    for number in range(2):
        (files[0].parent / f"none{number}").mkdir()  # of one size, and not to be opened as a file
        files += [files[0].parent / f"none{number}", files[0].parent / f"gone{number}"]
    for _ in range(2):
        assert same_content(files[0].parent, files, cache).tolist() == [0, 1, 0, 3, 4, 5, 6, 7]


def test_a_cache_that_cannot_be_written_is_no_fault(files, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert same_content(files[0].parent, files, tmp_path / "cache").tolist() == [0, 1, 0, 3]


def aged(path: Path, content: bytes) -> Path:
    """Write a file that is old enough for its times to say that it is the same."""
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_a_digest_is_known_as_long_as_the_file_is_the_same(tmp_path: Path, monkeypatch) -> None:
    path = aged(tmp_path / "a.png", b"one")
    monkeypatch.setattr(file_digests, "_RACY", -(10**12))  # its change of mode was just now
    first = KeptDigests(tmp_path / "cache", str(tmp_path))
    key, known = first.find(path)
    assert known is None
    first.add(key, "ab" * 32)
    first.save()
    assert KeptDigests(tmp_path / "cache", str(tmp_path)).find(path) == (key, "ab" * 32)
    assert KeptDigests(tmp_path / "cache", "elsewhere").find(path) == (key, None)
    aged(path, b"two")
    assert KeptDigests(tmp_path / "cache", str(tmp_path)).find(path)[1] is None
    assert b"a.png" not in b"".join(
        each.read_bytes() for each in (tmp_path / "cache").rglob("*.npz")
    )


def test_nothing_stands_for_a_young_or_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    kept = KeptDigests(tmp_path / "cache", str(tmp_path))
    for name in ("a.png", "b.png"):
        assert kept.find(tmp_path / name) == (b"", None)
    kept.add(b"", "ab" * 32)
    kept.save()
    assert not (tmp_path / "cache").exists()


def test_two_sites_of_a_folder_keep_each_others_digests(tmp_path: Path) -> None:
    keys = [bytes([number]) * 16 for number in range(2)]
    both = [KeptDigests(tmp_path / "cache", "root") for _ in keys]
    for kept, key in zip(both, keys, strict=True):
        kept.add(key, "ab" * 32)
        kept.save()
    assert KeptDigests(tmp_path / "cache", "root")._known.keys() == set(keys)


def test_what_piled_up_over_the_years_goes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(file_digests, "MOST_KEPT", 1)
    for number in range(12):
        kept = KeptDigests(tmp_path / "cache", "root")
        kept.add(bytes([number]) * 16, "ab" * 32)
        kept.save()
        assert 1 <= len(KeptDigests(tmp_path / "cache", "root")._known) <= 9


def test_digests_that_cannot_be_written_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file in the way")
    kept = KeptDigests(tmp_path / "cache", "root")
    kept.add(b"k" * 16, "ab" * 32)
    kept.save()
    assert (tmp_path / "cache").is_file()
