"""`fedstrata completion`: completes commands, options, keys and choices in bash and zsh."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import conf
from fedstrata.cli.main import COMMANDS

CONF = Path(conf.__file__).resolve().parent
SETTINGS = ("run", "check")  # commands that take keys and choices
OF_RUNS = ("report", "compare", "watch")  # commands that take names of runs
RUN_KEYS = ("experiment", "data-root", "output-dir", "name")
CODINGS = ("strategy.coding", "strategy.coding_down")
GROUPS = ("common", "task")
PACKAGES: Mapping[str, str] = {"experiment": "", "aggregator": "", "coding": ""}  # by folder

BASH = """\
# source <(fedstrata completion bash)
_fedstrata() {
  local line="${COMP_LINE:0:COMP_POINT}" word
  word="${line##* }"
  mapfile -t COMPREPLY < <(fedstrata completion words "$line" 2>/dev/null)
  case "$COMP_WORDBREAKS" in
    *=*) case "$word" in *=*) COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}") ;; esac ;;
  esac
  case "${COMPREPLY[0]:-}" in *=) compopt -o nospace ;; esac
}
complete -o default -F _fedstrata fedstrata
"""
ZSH = """\
# source <(fedstrata completion zsh)
_fedstrata() {
  local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
  local -a found
  found=(${(f)"$(fedstrata completion words "$line" 2>/dev/null)"})
  if (( $#found )); then
    compadd -Q -S '' -- ${(M)found:#*=}
    compadd -Q -- ${found:#*=}
  else
    compset -P '*='
    _files
  fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
compdef _fedstrata fedstrata
"""


def main(arguments: Sequence[str]) -> None:
    """Print the script of a shell, or what a line can go on with."""
    made = argparse.ArgumentParser(
        prog="fedstrata completion",
        description="Prints the script that completes commands, options, keys and choices: "
        "source <(fedstrata completion bash)",
    )
    made.add_argument("what", choices=("bash", "zsh", "words"), help="the shell")
    made.add_argument("line", nargs="?", default="", help=argparse.SUPPRESS)
    options = made.parse_args(arguments)
    if options.what == "words":
        for word in words(options.line):
            print(word)
    else:
        print(BASH if options.what == "bash" else ZSH, end="")


def words(line: str) -> list[str]:
    """Return what the last word of a line can become; the line begins with the command itself."""
    *before, current = line.split(" ")
    before = [word for word in before if word][1:]
    if not before:
        found = list(COMMANDS)
    elif before[-1] == "--resume":
        found = _runs()
    elif current.startswith("-"):
        found = _options(before[0])
    elif before[0] in SETTINGS:
        found = _settings(current)
    elif before[0] in OF_RUNS:
        found = _runs()
    else:
        found = []
    return sorted({word for word in found if word.startswith(current)})


def _settings(current: str) -> list[str]:
    """Return the keys, each with its equals sign, or the values of the key that is written."""
    key, given, _ = current.partition("=")
    if given:
        return [f"{key}={value}" for value in _values(key)]
    return [f"{each}=" for each in (*RUN_KEYS, *_folders(), *_coding_keys(), *_keys())]


def _values(key: str) -> list[str]:
    group = "coding" if key in _coding_keys() else key.lstrip("+").partition("@")[0]
    if (CONF / group).is_dir() and not group.startswith("."):
        return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return ["true", "false"] if isinstance(_keys().get(key), bool) else []


def _folders() -> list[str]:
    named = [path.name for path in CONF.iterdir() if path.is_dir() and any(path.glob("*.yaml"))]
    aggregators = [f"aggregator@strategy.aggregators.{group}" for group in GROUPS]
    return [name for name in named if name not in PACKAGES] + aggregators


def _coding_keys() -> list[str]:
    return [f"{way}.{group}" for way in CODINGS for group in GROUPS]


def _keys() -> dict[str, Any]:
    """Return all keys of conf/ by dotted name, each with a value that stands there."""
    found: dict[str, Any] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        folder = path.parent.name if path.parent != CONF else ""
        if folder not in ("aggregator", "coding"):
            found |= dict(_leaves(_read(path), PACKAGES.get(folder, folder)))
    return found


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            if prefix or key != "defaults":
                yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix and re.fullmatch(r"[\w.-]+", prefix):
        yield prefix, value


def _read(path: Path) -> Any:
    import yaml

    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _options(command: str) -> list[str]:
    if command not in COMMANDS:
        return []
    make = getattr(importlib.import_module(f"fedstrata.cli.{command}"), "parser", None)
    return [] if make is None else list(make()._option_string_actions)


def _runs() -> list[str]:
    from fedstrata.runs.folder import default_folders

    files = [f"*/{name}" for name in ("run.json", "sweep.json")]
    found = [path for each in default_folders() for name in files for path in each.glob(name)]
    return ["latest", *(path.parent.name for path in found)]
