"""What is written to an audit log: durable lines in a chain, and what a crash leaves is said."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support import audit
from fedstrata.support.audit import FIRST, AuditLog, head_of, read_head, read_line
from fedstrata.support.audit_check import read_and_verify

KEY = Ed25519PrivateKey.generate()
KEYS = (KEY.public_key(),)


def written(folder: Path, count: int = 3) -> Path:
    path = folder / "log" / "audit.jsonl"
    log = AuditLog(path, KEY)
    for number in range(count):
        log.append("order", number=number)
    return path


def events(path: Path) -> list[str]:
    return [line.event for line in read_and_verify(path, KEYS).lines]


def test_each_line_has_the_hash_of_the_one_before(tmp_path: Path) -> None:
    path = written(tmp_path)
    first, second, third = (read_line(line) for line in path.read_bytes().splitlines())
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.seq, second.seq, third.seq) == (1, 2, 3)
    assert (first.before, second.before, third.before) == (FIRST, first.digest, second.digest)
    head = read_head(path)
    assert head is not None
    assert (head.seq, head.digest) == (3, third.digest)


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = written(tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert head_of(path).stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_another_process_goes_on_where_one_ended(tmp_path: Path) -> None:
    path = written(tmp_path)
    AuditLog(path, KEY).append("stop")
    found = read_and_verify(path, KEYS)
    assert found.problems == []
    assert [line.seq for line in found.lines] == [1, 2, 3, 4]


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_ten, args=(path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = read_and_verify(path, KEYS)
    assert found.problems == []
    assert len(found.lines) == 20


def _write_ten(path: Path) -> None:
    log = AuditLog(path, KEY)
    for number in range(10):
        log.append("order", number=number)


@given(st.integers(1, 200))
def test_a_torn_last_line_is_recorded(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = written(tmp_path_factory.mktemp("torn"), 2)
    os.truncate(path, path.stat().st_size - cut)
    AuditLog(path, KEY).append("start")
    found = read_and_verify(path, KEYS)
    assert found.lines[-1].event == "start"
    if cut == 1:  # the newline alone was missing: nothing is lost
        assert found.problems == found.notes == []
        return
    assert [line.event for line in found.lines if line.event == "gap"] == ["gap"] * 2
    (note,) = found.notes
    assert "was not finished" in note
    # The head had named the line, so it had been written whole.
    (problem,) = found.problems
    assert "the line of seq 2 is missing" in problem


def test_a_line_that_a_crash_tore_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    log, real = AuditLog(path, KEY), os.write

    def full(file: int, data: bytes) -> int:
        real(file, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "write", full)
        with pytest.raises(OSError, match="No space"):
            log.append("order")
    log.append("order")
    found = read_and_verify(path, KEYS)
    assert found.problems == []
    assert [line.event for line in found.lines[3:]] == ["gap", "order"]
    assert found.notes == [
        "before line 5: 21 bytes of a line that was not finished; the process or the machine "
        "stopped there"
    ]


def test_lines_that_were_cut_off_are_recorded(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    AuditLog(path, KEY).append("start")
    *_, gap, start = read_and_verify(path, KEYS).lines
    assert (gap.event, gap.fields) == ("gap", {"why": "missing", "first": 2, "last": 3})
    assert (gap.seq, start.seq) == (4, 5)


def test_a_log_that_is_gone_is_not_begun_as_if_it_were_new(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.unlink()
    AuditLog(path, KEY).append("start")
    assert "seq 1 to 3 are missing" in " ".join(read_and_verify(path, KEYS).problems)


def test_a_head_that_is_gone_is_recorded(tmp_path: Path) -> None:
    path = written(tmp_path)
    head_of(path).unlink()
    AuditLog(path, KEY).append("start")
    assert events(path)[-2:] == ["gap", "start"]


def test_an_old_log_that_was_put_back_is_recorded(tmp_path: Path) -> None:
    path, other = written(tmp_path / "a"), written(tmp_path / "b")
    path.write_bytes(other.read_bytes())
    AuditLog(path, KEY).append("start")
    gap = read_and_verify(path, KEYS).lines[-2]
    assert gap.fields["why"] == "replaced"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_writes_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1234)
    log = AuditLog(tmp_path / "audit.jsonl", KEY)
    log.append("allowed")
    assert {path.stat().st_uid for path in (log.path, head_of(log.path))} == {1234}


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        AuditLog(tmp_path / "audit.jsonl", KEY).append("start")


def test_a_line_has_a_bound(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", KEY)
    with pytest.raises(ValueError, match="at most"):
        log.append("order", text="x" * audit.MOST_LINE)
    log.append("order")
    assert read_and_verify(log.path, KEYS).problems == []


@given(
    st.binary()
    | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_nothing_but_a_line_is_read_as_one(data: bytes) -> None:
    assert read_line(data) is None


@given(st.binary(max_size=300))
def test_any_bytes_may_be_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "audit.jsonl"
    path.write_bytes(data)
    AuditLog(path, KEY).append("start")
    assert events(path)[-1] == "start"
    assert read_and_verify(path, KEYS).problems == []
