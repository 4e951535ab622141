"""The house rules: which package imports which, what is light, what configuration must say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
HOUSE = [
    "consortium",
    "site_guard",
    "server_app",
    "client_app",
    "strategies",
    "models",
    "conf",
]  # imports go down this list
MODULES = sorted(p for name in HOUSE for p in (ROOT / name).rglob("*.py"))
CHOICES = sorted((ROOT / "conf").rglob("*.yaml"))


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_the_house_only(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    above = set(HOUSE[: HOUSE.index(package)])
    apart = {"server_app", "client_app", "site_guard", "consortium"}
    if package in apart:
        above |= apart - {package}
    assert not imported(path) & above
    if package == "models":
        assert "flwr" not in imported(path)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_one_sentence(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.split("\n")[0].endswith(".")


@pytest.mark.parametrize(
    "module",
    [
        "server_app.app",
        "client_app.app",
        "fedstrata.protocol.answers",
        "conf",
        "site_guard.guard",
        "site_guard.app_process",
    ],
)
def test_what_need_not_import_torch_does_not(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(("model", "torchvision"), [("resnet18", True), ("mlp", False)])
def test_a_server_imports_ahead_what_the_rounds_need(model: str, torchvision: bool) -> None:
    code = (
        f"import sys, server_app.app as app; app._import_ahead({model!r})\n"
        "assert 'server_app.run' in sys.modules\n"
        f"assert ('torchvision' in sys.modules) is {torchvision}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def calls(path: Path) -> list[tuple[str, dict[str, object]]]:
    """Return each call in a file: the dotted name, and the keywords that are constants."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {
                k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)
            }
            found.append((ast.unparse(node.func), keywords))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles_or_imports_by_message(path: Path) -> None:
    for name, keywords in calls(path):
        if name == "torch.load":
            assert keywords.get("weights_only") is True
        if name in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle") is False
        assert not name.startswith("pickle.load")
        assert name not in ("hydra.utils.instantiate", "hydra.utils.get_class", "eval", "exec")
    assert "_target_" not in path.read_text()


@pytest.mark.parametrize("path", CHOICES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_choice_opens_with_a_command_to_try(path: Path) -> None:
    comment = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert "overrides" in comment or "flwr run" in comment
    assert yaml.safe_load(path.read_text()) is not None


def test_the_apps_process_imports_nothing_of_ours_before_the_app() -> None:
    assert not imported(ROOT / "site_guard" / "app_process.py") & set(HOUSE)
    assert not imported(ROOT / "site_guard" / "__init__.py")
