"""The pages that a person reads: which they are, and their text without what is no prose."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = sorted(
    [
        README,
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docker").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]
)
WRITTEN_BY_A_PROGRAM = {ROOT / "benchmarks" / "RESULTS.md"}
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")


def name(page: Path) -> str:
    """Return a page's path from the root, for the names of tests."""
    return page.relative_to(ROOT).as_posix()


def without_fences(text: str) -> str:
    """Return a page's text without its blocks of code."""
    kept = []
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if fence:
            if mark and line.strip().startswith(fence):
                fence = ""
        elif mark:
            fence = mark[1]
        else:
            kept.append(line)
    return "\n".join(kept)


def code_spans(text: str) -> list[str]:
    """Return what stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def without_code_spans(text: str) -> str:
    """Return a text without what stands between backticks."""
    return re.sub(r"`[^`\n]+`", "", text)
