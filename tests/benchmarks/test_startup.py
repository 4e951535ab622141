"""Who imports torch, and what the benchmark of starts says of what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from benchmarks import startup
from benchmarks.flower.processes import REPOSITORY, clean_environment
from benchmarks.measure.deployed_rounds import COLD, STOCK, WARM
from benchmarks.startup import (
    ALWAYS,
    COMMAND,
    IMPORTS,
    LEAST,
    QUICK,
    SERVER,
    WITH_TORCH,
    Import,
    import_of,
    imports_table,
    main,
    runs_table,
)

FLWR_RUN = """
import atexit, sys
atexit.register(lambda: print("torch:", "torch" in sys.modules))
sys.argv = ["flwr", "run", ".", "nowhere"]
from flwr.cli.app import app
app()
"""
FIRST_WITH_TORCH = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(print(name))
"""
OURS = [
    name
    for name, module in IMPORTS.items()
    if (REPOSITORY / module.split(".")[0] / "__init__.py").exists()
]


def test_torch_is_imported_by_nobody_who_does_not_need_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FIRST_WITH_TORCH, *sorted(set(OURS) - WITH_TORCH)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "", f"{run.stdout} imports torch"


def test_flwr_run_imports_no_torch(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))  # knows no method
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    environment = clean_environment(tmp_path / "home", tmp_path, threads=1)
    connection = f'[superlink.nowhere]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (tmp_path / "config.toml").write_text(connection)
    try:
        run = subprocess.run(
            [sys.executable, "-c", FLWR_RUN],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        server.stop(None)
    assert "torch: False" in run.stdout, run.stdout + run.stderr
    # The answer to what it sent: so it has done what it does before the stream.
    assert "Method not found" in run.stdout + run.stderr


def test_an_import_is_timed_in_an_interpreter_of_its_own() -> None:
    found = import_of("json, http.client")
    assert found.processor > 0
    assert found.seconds > 0
    assert not found.torch
    assert import_of("sys as torch, sys; sys.modules['torch'] = sys").torch


def test_imports_are_measured_in_turn_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []

    def noted(module: str) -> Import:
        imported.append(module)
        return Import(1.0, 0.5, module == "torch")

    monkeypatch.setattr(startup, "import_of", noted)
    main(["--quick", "--no-runs", "--output", str(tmp_path)])
    written = json.loads((tmp_path / "startup.json").read_text())
    assert {IMPORTS[name] for name in written["imports"]} == set(imported)
    assert {SERVER, *ALWAYS, *QUICK} <= written["imports"].keys()
    assert written["imports"]["torch"] == [{"seconds": 1.0, "processor": 0.5, "torch": True}]
    assert written["runs"] == {}
    assert len(os.sched_getaffinity(0)) == written["machine"]["cores"]


def test_the_tables_are_of_medians() -> None:
    imports = {
        SERVER: [Import(1.0, 0.9, False), Import(3.0, 0.9, False)],
        "server_app.app": [Import(s, s / 2, False) for s in (2.0, 9.0, 1.2)],
    }
    assert imports_table(imports).rows["server_app.app"] == (
        "2.00",
        "1.00",
        f"1.00 ({SERVER})",
        "no",
    )
    runs = {WARM: [5.0, 4.0, 90.0], COLD: [10.0], STOCK: [10.0, 20.0]}
    imports |= {"torch": [Import(3.0, 3.0, True)], COMMAND: [Import(1.0, 1.0, False)]}
    assert runs_table(runs, imports, 3).rows == {
        WARM: ("5.0", "3.0", "5.0", "1.0"),
        COLD: ("10.0", "1.5", "5.0", "2.0"),
        STOCK: ("15.0", "-", "5.0", "3.0"),
    }


def test_the_limit_of_a_module_is_measured_too() -> None:
    assert set(LEAST) <= set(IMPORTS)
    assert {*LEAST.values(), *ALWAYS} <= set(IMPORTS)
    assert set(IMPORTS) >= WITH_TORCH
