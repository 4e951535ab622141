"""Every message that troubleshooting.md quotes as the product's own is one of the product's."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from itertools import pairwise

import pytest

from tests.docs.pages import ROOT, code_spans

PAGE = ROOT / "docs" / "troubleshooting.md"
OURS = "| fedstrata says |"  # the heading of the first column of tables of the product's messages
GAP = "\N{BULLET}"  # what is put in when a message is made
LEAST_WORDS = 3  # with fewer a quoted message is found anywhere
_PLACEHOLDER = re.compile(r"%[-+ 0]*\d*(?:\.\d+)?[sdrfgi]")


def quoted(text: str) -> list[str]:
    """Return the messages in the first column of the tables that quote the product."""
    found = []
    ours = False
    for before, line in pairwise(["", *text.splitlines()]):
        if line.startswith("|") and not before.startswith("|"):
            ours = line.startswith(OURS)
            continue
        if ours and line.startswith("|") and not line.startswith("|---"):
            found += code_spans(line.split(" | ")[0])
    return found


def messages(source: str) -> set[str]:
    """Return the texts of a module, each whole, with GAP for what is put in at run time."""
    tree = ast.walk(ast.parse(source))
    nodes = [
        child for node in tree if not _is_docstring(node) for child in ast.iter_child_nodes(node)
    ]
    texts = {_text(node) for node in nodes if isinstance(node, ast.expr)}
    return {_PLACEHOLDER.sub(GAP, text) for text in texts if text}


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _text(node: ast.expr) -> str:
    """Return the text that an expression makes, as far as it is written there."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or GAP for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return f"{left or GAP}{right or GAP}" if left or right else ""
    return ""


@cache
def product() -> str:
    """Return all texts of the product, one a line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    paths = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    found = set().union(*(messages(path.read_text()) for path in paths))
    return "\n".join(sorted(text.replace("\n", " ") for text in found))


def occurs(message: str, texts: str) -> bool:
    """Return whether one line of ``texts`` has the message; its ``...`` may be anything there."""
    parts = [re.escape(part.strip()) for part in message.split("...")]
    return re.search(r".*?".join(parts), texts) is not None


MESSAGES = quoted(PAGE.read_text())


def test_the_page_quotes_messages() -> None:
    assert len(MESSAGES) > 30


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_in_the_source(message: str) -> None:
    assert len(message.replace("...", "").split()) >= LEAST_WORDS
    found = occurs(message, product())
    assert found, f"docs/troubleshooting.md has it, and the product does not: {message}"


def test_what_nobody_says_is_not_found() -> None:
    assert not occurs("the site is on holiday until ...", product())


def test_texts_are_put_together_as_they_are_said() -> None:
    source = (
        'raise UserError(a_file(path) + f": has {n} rows but " + told + " has more")\n'
        'log.info("site %s: %s, round %d", "x" "y")\n'
    )
    texts = "\n".join(messages(source))
    assert occurs("has ... rows but ... has more", texts)
    assert occurs("site ...: ..., round", texts)
    assert occurs("xy", texts)
    assert not occurs("rows but has more", texts)
    assert not occurs("has more ... rows but", texts)


def test_only_the_products_tables_are_read() -> None:
    text = (
        "| fedstrata says | cause |\n|---|---|\n| `a ...` or `b` | `c` |\n\n"
        "| Flower says | cause |\n|---|---|\n| `d` | e |\n"
    )
    assert quoted(text) == ["a ...", "b"]
