"""The launcher gives everything up first, says what it could not give up, and then starts nothing."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from site_guard import launcher
from site_guard.app_user import AppUser
from site_guard.confinement import Confinement
from site_guard.settings import Limits
from tests.helpers.confined import folder_for_all, run_confined
from tests.helpers.tiny_app import confinement

SYSTEM_PYTHON = "/usr/bin/python3"  # which every user can run, wherever these tests' own lies
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")


def test_it_imports_the_standard_library_alone() -> None:
    tree = ast.parse(Path(launcher.__file__).read_text())
    names = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    ]
    assert names
    assert not {str(name).split(".")[0] for name in names} - sys.stdlib_module_names


def test_it_sets_the_limits_and_makes_no_core_dump(tmp_path: Path) -> None:
    code = (
        "import resource as r; print([r.getrlimit(each) for each in "
        "(r.RLIMIT_CORE, r.RLIMIT_NOFILE, r.RLIMIT_DATA)])"
    )
    limits = Limits(memory_gb=1.5, open_files=300)
    done = run_confined(confinement(tmp_path, limits=limits), code)
    assert done.stdout.strip() == "[(0, 0), (300, 300), (1500000000, 1500000000)]", done


def test_memory_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    code = "bytearray(10**9)"
    assert not run_confined(confinement(tmp_path), code).stderr
    done = run_confined(confinement(tmp_path, limits=Limits(memory_gb=0.5)), code)
    assert "MemoryError" in done.stderr


def test_it_works_in_an_empty_folder_of_its_own(tmp_path: Path) -> None:
    made = confinement(tmp_path)
    made.temporary.mkdir()
    (made.temporary / "left").write_text("by the process before")
    code = "import os, tempfile; print(os.getcwd(), os.listdir(), tempfile.gettempdir())"
    done = run_confined(made, code)
    assert done.stdout.split() == [str(made.temporary), "[]", str(made.temporary)]
    assert made.temporary.stat().st_mode & 0o777 == 0o700


def test_what_it_cannot_do_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong, reason in (
        ({"write": (tmp_path / "file",)}, "file: File exists; its user must own this folder"),
        ({"temporary": tmp_path / "file" / "x"}, "x: Not a directory"),
    ):
        done = run_confined(confinement(tmp_path, **wrong), "print('started')")
        assert reason in done.failure
        assert not done.stdout


@linux
def test_a_filter_that_the_kernel_refuses_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"seccomp": 317, "program": "00"}
    monkeypatch.setattr("site_guard.confinement.filter_order", lambda: broken)
    done = run_confined(confinement(tmp_path), "print('started')")
    assert done.failure.startswith("the network cannot be taken away: ")
    assert not done.stdout


@linux
@needs_root
def test_root_keeps_no_capability(tmp_path: Path) -> None:
    code = "print([line for line in open('/proc/self/status') if line.startswith('CapEff')])"
    assert "0000000000000000" in run_confined(confinement(tmp_path), code).stdout


@pytest.fixture
def of_another_user() -> Iterator[Confinement]:
    """Return a confinement to user 20001, who owns no more than its own folders."""
    with folder_for_all() as folder:
        for name in ("tmp", "state", "data"):
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, 20001, 20001)
        yield confinement(
            folder,
            user=AppUser("app", 20001, 20001, (20001, 20002)),
            read=(folder / "data",),
            write=(folder / "state",),
        )


@linux
@needs_root
def test_it_becomes_the_apps_user_for_good(of_another_user: Confinement) -> None:
    code = """if True:
        import os
        print(os.getresuid(), os.getresgid(), sorted(os.getgroups()))
        print([line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')][:3])
        try:
            os.setuid(0)
        except PermissionError:
            print('not back')
    """
    done = run_confined(of_another_user, code, python=SYSTEM_PYTHON)
    ids, none = "(20001, 20001, 20001)", "0000000000000000"
    assert done.stdout.splitlines() == [
        f"{ids} {ids} [20001, 20002]",
        str([none] * 3),
        "not back",
    ], done


@linux
@needs_root
def test_folders_of_another_owner_are_named(of_another_user: Confinement) -> None:
    made, folder = of_another_user, of_another_user.temporary.parent
    for name, reason in (("state", "may not write there"), ("data", "may not read it")):
        os.chown(folder / name, 0, 0)
        done = run_confined(made, "print('started')", python=SYSTEM_PYTHON)
        assert f"{folder / name}: its user {reason}" in done.failure
        os.chown(folder / name, 20001, 20001)
    assert run_confined(made, "print('started')", python=SYSTEM_PYTHON).stdout == "started\n"
    closed = replace(made, read=(folder / "closed" / "x",))
    (folder / "closed").mkdir(mode=0o700)
    done = run_confined(closed, "print('started')", python=SYSTEM_PYTHON)
    assert "x: its user may not enter the folders above it" in done.failure
    missing = replace(made, read=(folder / "missing",))
    assert run_confined(missing, "print('started')", python=SYSTEM_PYTHON).stdout == "started\n"
