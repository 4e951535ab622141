"""Writes docs/configuration.md: every key of conf/, from the YAML files and their comments.

    python docs/generate_configuration.py            # writes the page
    python docs/generate_configuration.py --check    # exits with 1 where the page is stale

A key without a comment is an error that names it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"
COMMANDS = ("Run", "Choose", "Override", "Try")
GROUP = "<group>"  # stands for common or task in a key

# Each folder of conf/: where its keys stand in the configuration, and what it chooses.
GROUPS: Mapping[str, tuple[str, str]] = {
    "experiment": ("", "An experiment sets several choices and values together."),
    "model": (
        "model",
        "The network. Tensor names are torchvision's, and every network has a head.",
    ),
    "models": (
        "models",
        "Several networks, of which each site has one of its own: a mix, or any by "
        "`+model@models.NAME=small_cnn`. See [different-networks.md](different-networks.md).",
    ),
    "weights": ("weights", "The start weights."),
    "data": ("data", "The data set, and how each site gets its examples."),
    "groups": ("groups", "The partition: which tensor belongs to which layer group."),
    "method": ("method", "The method of federated learning."),
    "train": ("train", "How a site trains."),
    "strategy": ("strategy", "The rounds, as the server runs them."),
    "tracker": ("tracker", "Where a run is also written down, to compare runs."),
    "aggregator": (
        f"strategy.aggregators.{GROUP}",
        "How the server averages the updates of one layer group.",
    ),
    "coding": (
        f"strategy.coding.{GROUP}",
        "How the layers of one group travel. For the way down, write `coding_down`.",
    ),
}
IDENTITY = ("name", "source")  # repeats the file's name
RUN_KEYS: Mapping[str, str] = {
    "experiment": "a file of conf/experiment",
    "overrides": "changes to the configuration, separated by spaces; `${...}` is not resolved there",
    "data-root": "absolute path of the data, for a simulation",
    "output-dir": "absolute path of the folder for runs; empty: `~/.fedstrata/runs`",
    "resume": "a run to resume, `latest`, or `auto`: the run called `name`, which starts where it "
    "does not exist yet",
    "name": "name of the run and its folder; empty: the experiment and the time",
    "signature": "signature of the app bundle, by `fedstrata sign`, for sites that ask for it",
}

HEAD = """\
# Configuration

For everyone who runs an experiment: every key, its default and its meaning.
`python docs/generate_configuration.py` writes this page from [`conf/`](../conf) and its comments.
Change the comments there, not this page.

## How a run is configured

`flwr run` itself takes the keys of the next table.
Everything else is changed with `overrides`.

{run_keys}

```bash
{commands}
```

Every choice is one file in `conf/`, and each file opens with a command to try.

| to | write |
|---|---|
| change a value | `strategy.rounds=4` |
| take another file of a folder | `method=fedprox` |
| take another aggregator for a group | `aggregator@strategy.aggregators.common=median` |
| take another coding for a group | `strategy.coding.common=int8` |
| run every combination | `seed=1,2,3 method=fedavg,fedper` (six runs) |
| run several configurations | `method=local seed=1 ; method=fedavg seed=1` (two runs) |

All runs of one command have the same sites.
A name that does not exist is an error, and the error lists the names that do.
What one site decides for itself is not here.
[hospital-it.md](hospital-it.md) has the `--node-config` keys.

"""


class Undocumented(Exception):
    """Keys without a comment that states their meaning."""


@dataclass(frozen=True)
class Key:
    """One key: its dotted name in its file, its default as written, and its meaning."""

    name: str
    default: str
    meaning: str


@dataclass
class Comments:
    """The prose and the commands of a block of comment lines, in order."""

    prose: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Take one line without its ``#``."""
        label, colon, command = line.partition(":")
        if colon and label in COMMANDS:
            self.commands.append(command.strip())
        elif line and not line.startswith("@package"):
            self.prose.append(line)


@dataclass
class Choice:
    """One YAML file: what it says of itself, the files it builds on, and its keys."""

    path: str
    about: Comments
    bases: dict[str, str]
    keys: list[Key]
    sections: dict[str, Comments]

    @property
    def name(self) -> str:
        """The name by which it is chosen."""
        return Path(self.path).stem


def read_choice(text: str, path: str) -> Choice:
    """Return what a YAML file and its comments say; ``path`` names it in errors."""
    node = yaml.compose(text)
    choice = Choice(path, Comments(), {}, [], {})
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        choice.about.add(line.lstrip("# ").rstrip())
    if not isinstance(node, yaml.MappingNode):
        raise Undocumented(f"{path} is not a mapping")
    lines = text.splitlines()
    for key, value in _pairs(node):
        if key.value == "defaults":
            choice.bases = _bases(value)
        else:
            choice.keys += _keys(key, value, lines, choice.sections, "")
    return choice


def _pairs(node: yaml.MappingNode) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    return [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]


def _bases(node: yaml.Node) -> dict[str, str]:
    """Return key to file name of a defaults list; the key ``""`` is a file of the same folder."""
    bases: dict[str, str] = {}
    for item in node.value:
        if isinstance(item, yaml.MappingNode):
            for key, value in _pairs(item):
                bases[key.value.removeprefix("override ").lstrip("/")] = str(value.value)
        elif item.value != "_self_":
            bases[""] = item.value
    return bases


def _keys(
    key: yaml.ScalarNode,
    value: yaml.Node,
    lines: Sequence[str],
    sections: dict[str, Comments],
    above: str,
) -> Iterator[Key]:
    """Yield the leaves at and below ``key``; a section with a comment of its own is one too."""
    name = f"{above}{key.value}"
    block = isinstance(value, yaml.MappingNode) and not value.flow_style
    if isinstance(value, yaml.MappingNode) and block:
        if not above and (before := _comment_before(lines, key.start_mark.line)):
            sections[name] = before
        if meaning := _comment(lines, key.end_mark.line, key.end_mark.column + 1):
            yield Key(name, "", meaning)
        for inner, below in _pairs(value):
            yield from _keys(inner, below, lines, sections, f"{name}.")
        return
    start, end = value.start_mark, value.end_mark
    written = lines[start.line][start.column : end.column] if start.line == end.line else "null"
    yield Key(name, written or "null", _comment(lines, end.line, end.column))


def _comment(lines: Sequence[str], number: int, column: int) -> str:
    """Return the comment after ``column`` and on the comment lines that follow without a gap."""
    found = re.fullmatch(r"\s*#\s?(.*)", lines[number][column:]) if number < len(lines) else None
    if found is None:
        return ""
    words = [found[1].strip()]
    for line in lines[number + 1 :]:
        if not line.strip().startswith("#"):
            break
        words.append(line.strip().lstrip("# "))
    return " ".join(words)


def _comment_before(lines: Sequence[str], number: int) -> Comments | None:
    """Return the comment block right above line ``number`` where an empty line precedes it."""
    first = number
    while first and lines[first - 1].startswith("#"):
        first -= 1
    if first == number or (first and lines[first - 1].strip()):
        return None
    comments = Comments()
    for line in lines[first:number]:
        comments.add(line.lstrip("# "))
    return comments


def read_folder(conf: Path) -> dict[str, list[Choice]]:
    """Return the choices of every folder of ``conf`` by the folder's name; ``""`` is config.yaml."""
    found: dict[str, list[Choice]] = {"": [_read(conf, conf / "config.yaml")]}
    for path in sorted(conf.glob("*/*.yaml")):
        found.setdefault(path.parent.name, []).append(_read(conf, path))
    return found


def _read(conf: Path, path: Path) -> Choice:
    return read_choice(path.read_text(), str(path.relative_to(conf)))


def with_meanings(folders: Mapping[str, list[Choice]]) -> None:
    """Fill in what a file that builds on others leaves unsaid, and drop the keys that name a file.

    Raises
    ------
    Undocumented
        For keys without a meaning, all of them.
    """
    stated = {
        _full(folder, key.name): key.meaning
        for folder, choices in folders.items()
        for choice in choices
        for key in choice.keys
        if key.meaning
    }
    missing = []
    for folder, choices in folders.items():
        for choice in choices:
            kept = []
            for key in choice.keys:
                if key.name in IDENTITY and key.default == choice.name and not key.meaning:
                    continue
                meaning = key.meaning or (
                    stated.get(_full(folder, key.name), "") if choice.bases else ""
                )
                if not meaning:
                    missing.append(f"conf/{choice.path}: {key.name}")
                kept.append(Key(key.name, key.default, meaning))
            choice.keys = kept
    if missing:
        raise Undocumented("these keys have no comment that says what they mean:", *missing)


def _full(folder: str, key: str) -> str:
    place = GROUPS[folder][0] if folder else ""
    return f"{place}.{key}" if place else key


def page(conf: Path, run_config: Mapping[str, object]) -> str:
    """Return the text of the page."""
    folders = read_folder(conf)
    if unknown := set(folders) - {"", *GROUPS}:
        raise Undocumented(f"GROUPS has no sentence for conf/{', conf/'.join(sorted(unknown))}")
    if set(run_config) != set(RUN_KEYS):
        raise Undocumented(f"RUN_KEYS differ from the app's: {sorted(set(run_config))}")
    with_meanings(folders)
    rows = [(f"`{key}`", _code(str(run_config[key])), text) for key, text in RUN_KEYS.items()]
    (root,) = folders[""]
    run_keys = _table(("key of `-c`", "default", "meaning"), rows)
    parts = [HEAD.format(run_keys=run_keys, commands="\n".join(root.about.commands))]
    parts.append(_choices(root, folders))
    parts.append(_top_level(root))
    parts += [_folder(folder, folders.get(folder, [])) for folder in GROUPS]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _choices(root: Choice, folders: Mapping[str, list[Choice]]) -> str:
    rows = []
    for key, name in root.bases.items():
        folder = key.partition("@")[0]
        there = " ".join(f"`{choice.name}`" for choice in folders[folder])
        rows.append((f"`{key}`", f"`{name}`", f"[{folder}](#{folder}): {there}"))
    return (
        "## The choices\n\n"
        "The default experiment is `faces`, which changes some of these defaults.\n\n"
        + _table(("choice", "default", "there are"), rows)
    )


def _top_level(root: Choice) -> str:
    parts = ["## Settings of a run"]
    parts.append(_key_table("", [key for key in root.keys if "." not in key.name]))
    names = dict.fromkeys(key.name.partition(".")[0] for key in root.keys if "." in key.name)
    for name in names:
        parts.append(f"### {name}")
        parts += _about(root.sections.get(name, Comments()))
        own = [key for key in root.keys if key.name.startswith(f"{name}.")]
        parts.append(_key_table("", own))
    return "\n\n".join(parts)


def _folder(folder: str, choices: Sequence[Choice]) -> str:
    place, sentence = GROUPS[folder]
    parts = [f"## {folder}", sentence]
    for choice in choices:
        parts.append(f"### {folder}: {choice.name}")
        parts += _about(choice.about)
        if changed := {_of_models(folder, k): v for k, v in choice.bases.items() if k}:
            chosen = {k.replace("@_global_.", "@"): v for k, v in changed.items()}
            parts.append(" ".join(["It chooses:", *(f"`{k}={v}`" for k, v in chosen.items())]))
        if base := choice.bases.get(""):
            parts.append(f"It changes these values of `{base}`.")
        if choice.keys:
            parts.append(_key_table(f"{place}." if place else "", choice.keys))
    return "\n\n".join(parts)


def _of_models(folder: str, key: str) -> str:
    """Return a choice as it is written on the command line: those of a mix are within ``models``."""
    return key.replace("@", "@models.", 1) if folder == "models" else key


def _about(comments: Comments) -> list[str]:
    parts = [" ".join(comments.prose).replace("<", "\\<")] if comments.prose else []
    if comments.commands:
        parts.append("\n".join(["```bash", *comments.commands, "```"]))
    return parts


def _key_table(place: str, keys: Sequence[Key]) -> str:
    rows = [
        (f"`{place}{key.name}`", _code(key.default), key.meaning.replace("<", "\\<"))
        for key in keys
    ]
    return _table(("key", "default", "meaning"), rows)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: tuple[str, str, str], rows: Sequence[tuple[str, str, str]]) -> str:
    lines = [head, ("---", "---", "---"), *rows]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(description="Writes docs/configuration.md from conf/.")
    parser.add_argument("--check", action="store_true", help="only compare; 1 where it is stale")
    parser.add_argument("--conf", type=Path, default=ROOT / "conf", help="folder of the YAML files")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page")
    given = parser.parse_args(arguments)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    try:
        made = page(given.conf, project["tool"]["flwr"]["app"]["config"])
    except Undocumented as error:
        print("\n  ".join(error.args), file=sys.stderr)
        return 1
    if not given.check:
        given.page.write_text(made)
        return 0
    if given.page.exists() and given.page.read_text() == made:
        return 0
    print(
        f"{given.page} is stale: run `python docs/generate_configuration.py` and commit the page",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
