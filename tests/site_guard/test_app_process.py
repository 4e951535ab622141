"""The app's process imports our packages from the app's bundle, never those of the site's process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from flwr.cli.build import build_fab_from_disk

import fedstrata.protocol.answers
from fedstrata.protocol import kinds, orders
from site_guard import app_process
from site_guard.bundles import Bundle
from site_guard.warm import WarmProcess
from tests.helpers.tiny_app import PYPROJECT, confinement

OURS = ("fedstrata", "server_app", "client_app", "strategies", "models", "conf")
INSTALLED = Path(fedstrata.protocol.answers.__file__).parents[2]
# The app answers where each of our packages came from, once it has imported the protocol.
APP = """
import json, sys
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from fedstrata.protocol import MARKER, limits

app = ClientApp()

@app.evaluate()
def evaluate(message, context):
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    entries = {"marker": MARKER, "limits": limits.WHOSE, "files": files}
    content = RecordDict({"report": ConfigRecord({"json": json.dumps(entries)})})
    return Message(content, reply_to=message)
"""


def marked_bundle(folder: Path, marker: str) -> Bundle:
    """Return an app that brings a ``fedstrata.protocol`` of its own, with a marker in it."""
    protocol = folder / "fedstrata" / "protocol"
    protocol.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "app.py").write_text(f"# {marker}\n{APP}")
    (folder / "fedstrata" / "__init__.py").write_text("")
    (protocol / "__init__.py").write_text(f"MARKER = {marker!r}\n")
    (protocol / "limits.py").write_text("WHOSE = 'the bundle'\n")
    return Bundle(build_fab_from_disk(folder), "somebody/tiny", "1.0.0")


@pytest.fixture
def process(tmp_path: Path) -> Iterator[WarmProcess]:
    process = WarmProcess(confinement(tmp_path), 600.0, threads=1)
    yield process
    process.stop()


def ask(process: WarmProcess, bundle: Bundle) -> dict[str, Any]:
    order = orders.order(kinds.EVALUATE, 7, plan="{}", round_number=1, layers={}, ttl=300.0)
    context = Context(1, 7, {}, RecordDict(), {})
    answer = process.run(bundle, order, context, 300.0, threading.Event())
    found: dict[str, Any] = json.loads(str(answer.content["report"]["json"]))
    return found


def test_the_app_gets_its_own_protocol_though_ours_is_imported_here(
    tmp_path: Path, process: WarmProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "fedstrata.protocol.answers" in sys.modules  # as in the site's own process
    monkeypatch.setenv("PYTHONPATH", str(INSTALLED))  # and the app's process could import it
    process.warm_up()
    for marker in ("first", "second"):
        found = ask(process, marked_bundle(tmp_path / marker, marker))
        assert (found["marker"], found["limits"]) == (marker, "the bundle")
        loaded = {name: file for name, file in found["files"].items() if name.split(".")[0] in OURS}
        assert loaded
        for name, file in loaded.items():
            assert Path(file).is_relative_to(tmp_path / "bundles"), f"{name} is {file}"
    assert process.started == 2  # a bundle never sees the modules of another


def test_the_process_is_a_new_interpreter_with_nothing_of_ours(tmp_path: Path) -> None:
    code = (
        "import sys, site_guard.app_process, site_guard.framing\n"
        f"loaded = [name for name in sys.modules if name.split('.')[0] in {OURS!r}]\n"
        "assert not loaded, loaded\n"
    )
    environment = {"PYTHONPATH": str(INSTALLED), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_it_imports_of_this_package_imports_nothing_else_of_ours() -> None:
    """Within functions too: an import there would come before the app's, or beside it."""
    seen, left = set(), ["app_process", "__init__"]
    folder = Path(app_process.__file__).parent
    while left:
        name = left.pop()
        seen.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {
                    *OURS,
                    "site_guard",
                }
            elif isinstance(node, ast.ImportFrom) and node.level:
                left += {str(node.module)} - seen
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] not in {*OURS, "site_guard"}
    assert seen == {"app_process", "__init__", "framing"}
