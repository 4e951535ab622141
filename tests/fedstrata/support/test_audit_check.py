"""What is found in an audit log: a line that was changed, taken out, put in, moved or cut off."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support.audit import AuditLog, head_of
from fedstrata.support.audit_check import read_and_verify

KEY = Ed25519PrivateKey.generate()
KEYS = (KEY.public_key(),)
Lines = list[bytes]


def written(folder: Path, key: Ed25519PrivateKey | None = KEY) -> Path:
    path = folder / "audit.jsonl"
    for copy, content in zip((path, head_of(path)), _contents(key), strict=True):
        copy.write_bytes(content)
    return path


@cache  # each line waits for the disk, and the examples are many
def _contents(key: Ed25519PrivateKey | None) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "audit.jsonl", key)
        for number in range(6):
            log.append("left", bytes=1000 + number)
        return log.path.read_bytes(), head_of(log.path).read_bytes()


def changed(lines: Lines) -> Lines:
    return [*lines[:2], lines[2].replace(b"1002", b"9002"), *lines[3:]]


def taken_out(lines: Lines) -> Lines:
    return lines[:2] + lines[3:]


def first_taken_out(lines: Lines) -> Lines:
    return lines[1:]


def twice(lines: Lines) -> Lines:
    return lines[:3] + lines[2:]


def swapped(lines: Lines) -> Lines:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def cut_off(lines: Lines) -> Lines:
    return lines[:4]


def all_cut_off(lines: Lines) -> Lines:
    return []


def nonsense_put_in(lines: Lines) -> Lines:
    return [*lines[:3], b"nothing\n", *lines[3:]]


@pytest.mark.parametrize("key", [KEY, None], ids=["signed", "unsigned"])
@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (changed, ("was changed or put in", "was written after another line")),
        (taken_out, ("the line of seq 3 is missing before line 3",)),
        (first_taken_out, ("the line of seq 1 is missing before line 1",)),
        (twice, ("line 4 (seq 3, left) is out of order",)),
        (swapped, ("line 3 (seq 2, left) is out of order",)),
        (cut_off, ("the lines of seq 5 to 6 are missing at the end",)),
        (all_cut_off, ("the lines of seq 1 to 6 are missing at the end",)),
        (nonsense_put_in, ("before line 5: 8 bytes that are no line",)),
    ],
)
def test_it_is_found(
    tmp_path: Path,
    attack: Callable[[Lines], Lines],
    said: tuple[str, ...],
    key: Ed25519PrivateKey | None,
) -> None:
    path = written(tmp_path, key)
    keys = KEYS if key else ()
    assert read_and_verify(path, keys).problems == []
    path.write_bytes(b"".join(attack(path.read_bytes().splitlines(keepends=True))))
    problems = " ".join(read_and_verify(path, keys).problems)
    assert any(text in problems for text in said), problems


def test_a_line_of_another_key_is_found(tmp_path: Path) -> None:
    path = written(tmp_path)
    AuditLog(path, Ed25519PrivateKey.generate()).append("left", bytes=7)
    AuditLog(path, KEY).append("stop")
    (problem,) = read_and_verify(path, KEYS).problems
    assert "line 7 (seq 7, left) is not as it was signed" in problem


def test_a_line_without_a_signature_is_found(tmp_path: Path) -> None:
    path = written(tmp_path)
    AuditLog(path, None).append("left", bytes=7)
    problems = read_and_verify(path, KEYS).problems
    assert "line 7 (seq 7, left) is not signed" in problems[0]
    assert "is not as it was signed" in problems[1]  # the head


def test_the_whole_log_of_another_key_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, Ed25519PrivateKey.generate())
    assert len(read_and_verify(path, KEYS).problems) == 7


def test_without_the_head_a_cut_tail_cannot_be_excluded(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    head_of(path).unlink()
    (problem,) = read_and_verify(path, KEYS).problems
    assert "cannot be seen" in problem


def test_keys_may_follow_one_another(tmp_path: Path) -> None:
    path, other = written(tmp_path), Ed25519PrivateKey.generate()
    AuditLog(path, other).append("start")
    assert read_and_verify(path, (*KEYS, other.public_key())).problems == []


@given(st.integers(0, 2000), st.integers(1, 255))
def test_any_changed_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, where: int, by: int
) -> None:
    path = written(tmp_path_factory.mktemp("log"))
    data = bytearray(path.read_bytes())
    data[where % (len(data) - 1)] ^= by
    path.write_bytes(bytes(data))
    assert read_and_verify(path, KEYS).problems
