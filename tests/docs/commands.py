"""The commands of a document: read out of its code blocks and tables, as a shell would read them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import README, ROOT

QUICKSTART = ROOT / "docs" / "quickstart.md"
FOR_NEWCOMERS = [README, QUICKSTART]
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:flwr run \.|python -m |docker/testbed )[^`]*)`")
_ENDS = {"&&", "||", ";", "|", "&"}
_SETTING = re.compile(r"[A-Z_]+=")


@dataclass(frozen=True)
class Command:
    """One command: the page it stands on, and its words."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}: {shlex.join(self.words)}"

    def option(self, *names: str) -> list[str]:
        """Return the values of an option, under any of its ``names``."""
        return [
            after for word, after in zip(self.words, self.words[1:], strict=False) if word in names
        ]

    @property
    def needs(self) -> bool:
        """Whether it needs data, weights or machines that a fresh checkout has not."""
        return any(
            sign in " ".join(self.words)
            for sign in ("data-root", "experiment=", "/models/", "/srv/", "/data/", "consortium")
        )


def commands_of(page: Path) -> list[Command]:
    """Return the commands of a page: those of its bash blocks first, then those inside lines."""
    text = page.read_text()
    blocks = _BLOCK.findall(text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += _INLINE.findall(_BLOCK.sub("", text))
    return [Command(page, words) for line in lines for words in _split(line)]


def _split(line: str) -> list[tuple[str, ...]]:
    """Return the words of each command of a line; settings before a command are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _ENDS:
            found.append([])
        elif found[-1] or not _SETTING.match(word):
            found[-1].append(word)
    return [tuple(words) for words in found if words]
