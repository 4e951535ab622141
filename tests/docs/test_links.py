"""Every link inside the pages leads to a file, a folder or a heading that exists."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import PAGES, ROOT, name, without_code_spans, without_fences

_INLINE = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HTML = re.compile(r"\b(?:href|src)=\"([^\"]+)\"")
_ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)")


def links(text: str) -> list[str]:
    """Return where the links of a page lead, but for those to other machines."""
    plain = without_code_spans(without_fences(text))
    found = [*_INLINE.findall(plain), *_HTML.findall(plain)]
    return [link for link in found if not _ELSEWHERE.match(link)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", without_fences(text), flags=re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def problem(page: Path, link: str) -> str:
    """Return what is wrong with a link, or ""."""
    path, _, anchor = unquote(link).partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(ROOT):
        return "leaves the repository"
    if not target.exists():
        return "there is no such file"
    if anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text())):
        return "there is no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = {link: problem(page, link) for link in links(page.read_text())}
    assert not {link: why for link, why in wrong.items() if why}


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("docs/nowhere.md", "there is no such file"),
        ("docs/results.md#nothing", "there is no such heading"),
        ("LICENSE#terms", "there is no such heading"),
        ("../elsewhere.md", "leaves the repository"),
        ("docs/results.md#deployment", ""),
        ("docs/", ""),
    ],
)
def test_a_broken_link_is_found(link: str, why: str) -> None:
    assert problem(ROOT / "README.md", link) == why


def test_links_in_code_are_none() -> None:
    text = '[a](b.md) `[c](d.md)`\n```\n[e](f.md)\n```\n<img src="g.png"> [h](https://i.example)\n'
    assert links(text) == ["b.md", "g.png"]


def test_anchors_are_those_of_the_page_as_it_is_shown() -> None:
    text = "# site.yaml, and `fedstrata site`\n## Twice\n## Twice\n```\n# no heading\n```\n"
    assert anchors(text) == {"siteyaml-and-fedstrata-site", "twice", "twice-1"}
