"""The rules of the house: which room imports which, what is light, how long and how named things are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from tests.helpers.source import (
    PRODUCT,
    ROOT,
    Module,
    calls,
    circles,
    identifiers,
    import_graph,
    imports,
    is_below,
    lines_of,
    lines_without_docstring,
    modules,
    private_names_of_others,
    run_by,
    run_on_import,
    words,
)

ALL = modules(*PRODUCT, "benchmarks")
OURS = [module for module in ALL if not is_below(module.name, "benchmarks")]

# Imports go down this list only; rooms on one line never import each other.
FLOORS = (
    ("fedstrata.cli",),
    ("fedstrata.engine",),
    ("server_app", "client_app", "site_guard", "consortium"),
    ("strategies",),
    ("models",),
    ("fedstrata.watch",),
    ("fedstrata.report",),
    ("fedstrata.comparison",),
    ("fedstrata.runs",),
    ("fedstrata.protocol",),
    ("fedstrata.drawn_faces",),
    ("fedstrata.support",),
    ("conf",),
)
ROOMS = tuple(room for floor in FLOORS for room in floor)

# What a part of a room must not import of ours, beyond the rule of the floors.
FORBIDDEN = {
    "server_app.rounds": (
        "server_app.app",
        "server_app.run",
        "server_app.deployment",
        "server_app.evaluation",
        "server_app.report",
    ),
    "server_app.sites": (
        "server_app.app",
        "server_app.run",
        "server_app.deployment",
        "server_app.evaluation",
        "server_app.report",
        "server_app.rounds",
    ),
    "server_app.inbox": ("server_app.rounds", "server_app.sites", "server_app.run"),
    "server_app.patience": ("server_app.rounds", "server_app.sites", "server_app.run"),
    "server_app.run": ("server_app.app",),
    "models": ("flwr",),
}
# What a room may import of ours, besides itself.
ALLOWED = {
    "client_app.data": ("strategies", "models", "fedstrata", "conf"),  # no more of client_app
    "site_guard": ("fedstrata.protocol", "fedstrata.support"),
    "consortium": ("fedstrata.protocol", "fedstrata.support"),
    "fedstrata.drawn_faces": (),
    "fedstrata.runs": ("fedstrata.protocol", "fedstrata.support"),
    "fedstrata.comparison": ("fedstrata.protocol", "fedstrata.runs", "fedstrata.support"),
    "fedstrata.watch": (
        "fedstrata.report",
        "fedstrata.protocol",
        "fedstrata.runs",
        "fedstrata.support",
    ),
    "fedstrata.report": ("fedstrata.protocol", "fedstrata.runs", "fedstrata.support"),
    "conf": (),
}

# Words of ours for which the field has another (GLOSSARY.md).
DIALECT = {
    *("told", "seat", "seats", "keepsake", "keepsakes", "learnt", "bench", "benches", "holding"),
    *("holdings", "blueprint", "blueprints", "doorkeeper", "enrolment", "stranger", "strangers"),
    *("parcel", "parcels"),
}

# Modules that no test file is named after: this list only gets shorter.
WITHOUT_A_TEST_FILE: set[str] = set()


def room_of(name: str) -> str | None:
    """Return the room in which a dotted name lies."""
    return next((room for room in ROOMS if is_below(name, room)), None)


def ours(names: Iterable[str]) -> set[str]:
    """Return the names that lie in a folder of the product."""
    return {name for name in names if name.split(".")[0] in PRODUCT}


# -- who imports whom ------------------------------------------------------------------------------


def test_every_module_lies_in_a_room() -> None:
    outside = [str(module) for module in OURS if room_of(module.name) is None]
    assert outside == ["fedstrata/__init__.py"]


def test_imports_go_down_the_floors() -> None:
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for module in OURS:
        room = room_of(module.name)
        for name in sorted(ours(imports(module))):
            other = room_of(name)
            if other and other != room and (not room or floor_of[other] <= floor_of[room]):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_the_parts_of_a_room_import_in_one_direction() -> None:
    wrong = [
        f"{module} imports {name}"
        for part, forbidden in FORBIDDEN.items()
        for module in OURS
        if is_below(module.name, part)
        for name in sorted(imports(module))
        if any(is_below(name, other) for other in forbidden)
    ]
    assert wrong == []


def test_some_rooms_need_little_of_ours() -> None:
    wrong = [
        f"{module} imports {name}"
        for room, allowed in ALLOWED.items()
        for module in OURS
        if is_below(module.name, room)
        for name in sorted(ours(imports(module)))
        if not any(is_below(name, other) for other in (room, *allowed))
        if not any(is_below(other, name) for other in (room, *allowed))  # `from fedstrata import`
    ]
    assert wrong == []


def test_the_app_bundle_has_all_of_ours_that_its_modules_import() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = project["tool"]["flwr"]["app"]["fab-include"]
    bundled = [each[1:-8].replace("/", ".") for each in globs if each.endswith("/**/*.py")]
    inside = [module for module in OURS if any(is_below(module.name, each) for each in bundled)]
    wrong = [
        f"{module} imports {name}"
        for module in inside
        for name in sorted(ours(imports(module)))
        if name != "fedstrata" and not any(is_below(name, each) for each in bundled)
    ]
    assert len(inside) > 100
    assert wrong == []


def test_nothing_of_ours_imports_the_benchmarks_or_the_tests() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in OURS
        for name in imports(module)
        if is_below(name, "benchmarks") or is_below(name, "tests")
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(import_graph(ALL)) == []


def test_a_circle_through_a_package_is_found(tmp_path: Path) -> None:
    texts = {
        "a": "from a.x import f",  # a package that takes a name out of its own module
        "a.x": "import b\ndef f():\n    import a.z",
        "a.y": "from a import x",  # as a reader sees it, of the package
        "a.z": "from a import f",
        "b": "from a.y import g",  # runs a/__init__.py too
    }
    written = []
    for name, text in texts.items():
        path = tmp_path / name / ("__init__.py" if name == "a" else "module.py")
        path.parent.mkdir()
        path.write_text(text)
        written.append(Module(name, path))
    graph = import_graph(written)
    assert graph["a.y"] == {"a", "a.x"}
    assert graph["a.z"] == {"a"}
    assert circles(graph) == [["a", "a.x", "a.y", "b"]]


def test_no_private_name_is_imported_by_another_module() -> None:
    wrong = {str(m): private_names_of_others(m, (*PRODUCT, "benchmarks")) for m in ALL}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_apps_process_imports_nothing_of_ours_before_the_app() -> None:
    every_import = {m.name: imports(m) & {other.name for other in OURS} for m in OURS}
    for name in run_by("site_guard.app_process", every_import):
        assert is_below(name, "site_guard")


def test_no_test_imports_another_test_module() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in modules("tests")
        for name in sorted(imports(module))
        if re.match(r"tests\.(.*\.)?test_\w+$", name)
    ]
    assert wrong == []


# -- how long and how named things are -------------------------------------------------------------


def test_no_module_is_too_long() -> None:
    long = {str(m): len(m.text.splitlines()) for m in ALL}
    assert {path: lines for path, lines in long.items() if lines > 450} == {}


def test_no_class_is_too_long() -> None:
    long = {
        f"{module}: {node.name}": lines_of(node)
        for module in ALL
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    assert {name: lines for name, lines in long.items() if lines > 300} == {}


def test_no_function_is_too_long() -> None:
    long = {
        f"{module}: {node.name}": lines_without_docstring(node)
        for module in ALL
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in long.items() if lines > 60} == {}


def test_every_module_opens_with_a_sentence() -> None:
    wrong = []
    for module in ALL:
        docstring = ast.get_docstring(module.tree) or ""
        if not docstring.split("\n")[0].endswith("."):
            wrong.append(str(module))
    assert wrong == []


def test_names_are_words_of_the_field() -> None:
    wrong = {
        str(module): sorted(name for name in identifiers(module) if words(name) & DIALECT)
        for module in OURS
    }
    assert {path: names for path, names in wrong.items() if names} == {}


def its_test_file(module: Module) -> Path:
    """Return where the tests of a module are: tests/ mirrors the rooms."""
    *folders, name = module.name.split(".")
    return ROOT.joinpath("tests", *folders, f"test_{name}.py")


def test_every_module_has_a_test_file_of_its_name() -> None:
    missing = {
        str(module)
        for module in OURS
        if not module.is_package and not its_test_file(module).exists()
    }
    assert sorted(missing - WITHOUT_A_TEST_FILE) == []
    assert sorted(WITHOUT_A_TEST_FILE - missing) == []  # has one now, or is gone: off the list


# -- what runs -------------------------------------------------------------------------------------

# Where importing costs no torch: what starts for each message, and what a person types.
LIGHT = (
    "fedstrata",
    "site_guard",
    "consortium",
    "conf",
    "server_app.app",
    "server_app.compose",
    "server_app.sites",
    "client_app.app",
    "client_app.node_config",
    "strategies.config",
)
TENSORS = {  # what is made of tensors, or is there to import torch
    "fedstrata.engine.preloaded",
    "fedstrata.protocol.codec",
    "fedstrata.protocol.payload",
    "fedstrata.protocol.tensors",
    "fedstrata.support.tensor_files",
}


def test_what_needs_no_torch_does_not_import_it() -> None:
    graph = import_graph(OURS)
    importers = {
        module.name
        for module in OURS
        if any(is_below(n, "torch") for n in imports(module, run_on_import(module.tree)))
    }
    wrong = [
        f"{name} runs {other}"
        for name in sorted(graph.keys() - TENSORS)
        if any(is_below(name, light) for light in LIGHT)
        for other in sorted(run_by(name, graph) & importers)
    ]
    assert wrong == []


def test_no_package_imports_torch_behind_our_back() -> None:
    names = ("fedstrata.cli.main", "site_guard.guard", "consortium.driver", "server_app.app")
    code = (
        "import importlib, sys\n"
        f"for name in {(*names, 'client_app.app')!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{name} imports torch')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("model", "torchvision"), [("resnet18", True), ("mlp", False)])
def test_a_server_imports_ahead_what_the_rounds_need(model: str, torchvision: bool) -> None:
    code = (
        f"import sys, server_app.app as app; app._import_ahead([{model!r}])\n"
        "assert 'server_app.run' in sys.modules\n"
        f"assert ('torchvision' in sys.modules) is {torchvision}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_nothing_unpickles_or_imports_by_message() -> None:
    wrong = []
    for module in OURS:
        for name, keywords in calls(module):
            safe = {
                "torch.load": keywords.get("weights_only") is True,
                "np.load": keywords.get("allow_pickle") is False,
                "numpy.load": keywords.get("allow_pickle") is False,
                "hydra.utils.instantiate": False,
                "hydra.utils.get_class": False,
                "eval": False,
                "exec": False,
            }
            if not safe.get(name, not name.startswith("pickle.load")):
                wrong.append(f"{module} calls {name}")
        if "_target_" in module.text:
            wrong.append(f"{module} says _target_")
    assert wrong == []


def test_every_choice_opens_with_a_command_to_try() -> None:
    choices = sorted((ROOT / "conf").rglob("*.yaml"))
    assert len(choices) > 40
    for path in choices:
        comment = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        assert any(word in comment for word in ("overrides", "flwr run", "fedstrata run")), path
        assert yaml.safe_load(path.read_text()) is not None, path
