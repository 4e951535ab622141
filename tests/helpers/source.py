"""The source code as data: modules, what they import, the names they define and how long they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = (
    "fedstrata",
    "server_app",
    "client_app",
    "site_guard",
    "consortium",
    "strategies",
    "models",
    "conf",
)


@dataclass(frozen=True)
class Module:
    """One Python file, under its dotted name."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def packages(self) -> set[str]:
        """The packages around it, which run before it; of a package, not the package itself."""
        parts = self.name.split(".")
        return {".".join(parts[:n]) for n in range(1, len(parts))}

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


def modules(*rooms: str) -> list[Module]:
    """Return every module below the given top-level folders."""
    found = []
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path))
    return found


def imports(module: Module, nodes: Iterable[ast.AST] | None = None) -> set[str]:
    """Return what a module imports, also inside functions: dotted names.

    ``from a import b`` counts as ``a`` and as ``a.b``: whether ``b`` is a module, the text does
    not say.
    """
    found = set()
    for node in ast.walk(module.tree) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def is_below(name: str, package: str) -> bool:
    """Return whether a dotted name is the package, or lies in it."""
    return name == package or name.startswith(f"{package}.")


def run_on_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that run when a module is imported: no function bodies, no TYPE_CHECKING."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)


def import_graph(all_modules: Iterable[Module]) -> dict[str, set[str]]:
    """Return for each module the modules that its import makes run.

    Importing ``a.b.c`` runs ``a`` and ``a.b`` too. The packages around the module itself are left
    out, for they run before it; they count where it takes something out of one, a module too.
    """
    by_name = {module.name: module for module in all_modules}
    graph: dict[str, set[str]] = {}
    for module in by_name.values():
        reached: set[str] = set()
        for node in run_on_import(module.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    reached |= _with_packages(alias.name) - module.packages
            elif isinstance(node, ast.ImportFrom):
                base = _absolute(module, node)
                names = {f"{base}.{alias.name}" for alias in node.names}
                reached |= (_with_packages(base) | names) - module.packages
                reached.add(base)
        graph[module.name] = (reached & by_name.keys()) - {module.name}
    return graph


def run_by(name: str, graph: Mapping[str, set[str]]) -> set[str]:
    """Return every module that runs where ``name`` is imported, itself included."""
    reached: set[str] = set()
    waiting = {name}
    while waiting:
        reached |= waiting
        found = {other for each in waiting for other in graph[each] | _with_packages(each)}
        waiting = (found & graph.keys()) - reached
    return reached


def _with_packages(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts) + 1)}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected parts of a graph that have more than one node (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        path.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in path:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            start = path.index(node)
            if len(path) - start > 1:
                found.append(sorted(path[start:]))
            del path[start:]

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def lines_of(node: ast.stmt) -> int:
    """Return how many lines a class or function has."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def lines_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has without its docstring."""
    first = node.body[0]
    documented = ast.get_docstring(node, clean=False) is not None
    return lines_of(node) - (lines_of(first) if documented else 0)


def identifiers(module: Module) -> set[str]:
    """Return every name that a module defines, sets or asks for, and its file's name."""
    found = {module.name.rpartition(".")[2]}
    for node in ast.walk(module.tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Name():
                found.add(node.id)
            case ast.Attribute():
                found.add(node.attr)
            case ast.arg() | ast.keyword() if node.arg:
                found.add(node.arg)
            case ast.alias() if node.asname:
                found.add(node.asname)
            case _:
                pass
    return found


def words(identifier: str) -> set[str]:
    """Return the words of an identifier in lower case: ``RoundTold`` and ``round_told`` alike."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}


def calls(module: Module) -> list[tuple[str, dict[str, object]]]:
    """Return each call in a module: the dotted name, and the keywords that are constants."""
    found: list[tuple[str, dict[str, object]]] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            keywords: dict[str, object] = {
                k.arg: k.value.value
                for k in node.keywords
                if k.arg and isinstance(k.value, ast.Constant)
            }
            found.append((ast.unparse(node.func), keywords))
    return found


def private_names_of_others(module: Module, ours: Iterable[str]) -> list[str]:
    """Return the names with a leading underscore that a module takes out of others of ``ours``."""
    rooms = set(ours)
    found: list[str] = []
    bound: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            if base.split(".")[0] not in rooms:
                continue
            for alias in node.names:
                if _is_private(alias.name):
                    found.append(f"{base}.{alias.name}")
                bound[alias.asname or alias.name] = f"{base}.{alias.name}"
        elif isinstance(node, ast.Import):
            bound |= {
                a.asname or a.name: a.name for a in node.names if a.name.split(".")[0] in rooms
            }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner in bound:
                found.append(f"{bound[owner]}.{node.attr}")
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
