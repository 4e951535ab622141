"""From the few keys of `flwr run -c` to the whole, checked configuration of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import conf
from fedstrata.protocol import limits
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.home import home
from fedstrata.support.paths import absolute_path, of_windows
from server_app.override_words import quoted_names, split_overrides
from strategies.config import Config, config_from_dict

CONF = Path(conf.__file__).resolve().parent
_CODING = re.compile(r"\+?(strategy\.coding(?:_down)?\.\w+)=(\w+)")
_SHARED = re.compile(
    r"\+?method\.model=(\w+)"
)  # a method's own network: auto, or one of conf/model
_CODED_GROUPS = ("common", "task")  # those whose coding stands in conf/config.yaml
_BY_TASK = ("data.tasks.", "data.classes.", "data.files.", "data.categories.", "data.models.")
_ADDED = ("data.models=",)  # keys that no file of conf/ has
# An override is read by parsers that recurse, and that are slow with long texts.
MOST_OVERRIDE, MOST_DEPTH = 20_000, 16  # characters; brackets in brackets, or parts of a key
_KEY = re.compile(r"(?:\+{1,2}|~)?[\w.-]+(?:@[\w.:-]+)?", re.ASCII)
_DRIVE = re.compile(r"['\"]?[A-Za-z]:[\\/]")
_RUN_KEYS = ("data-root", "output-dir")  # of `flwr run -c`, not of conf/
_SHOWN = 80  # characters of an override that an error repeats


@dataclass(frozen=True)
class RunConfig:
    """The keys under ``[tool.flwr.app.config]``: what a user can give to ``flwr run -c``."""

    experiment: str
    overrides: tuple[str, ...]
    output_dir: Path
    resume: str
    name: str = ""
    data_root: str = ""
    # Of a run of a sweep: the sweep's name, and whether a person chose it.
    sweep: str = ""
    chosen: bool = True


def read_run_config(run_config: Mapping[str, Any]) -> RunConfig:
    """Read Flower's run config; raise UserError for a path that is not absolute."""
    output = str(run_config.get("output-dir") or "")
    data_root = str(run_config.get("data-root") or "")
    for key, value in (("output-dir", output), ("data-root", data_root)):
        if value:
            absolute_path(
                value, key, "the app does not run in the folder in which you typed the command"
            )
    return RunConfig(
        experiment=str(run_config["experiment"]),
        overrides=tuple(split_overrides(str(run_config.get("overrides") or ""))),
        output_dir=Path(output) if output else home() / "runs",
        resume=str(run_config.get("resume") or ""),
        name=str(run_config.get("name") or ""),
        data_root=data_root,
    )


def expand(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the overrides of each run that ``overrides`` asks for, one set where it is one run.

    ``;`` stands between sets of their own; in a set, Hydra's sweeps make a run for each
    combination: ``seed=1,2 method=fedavg,fedper`` are four, ``model.hidden=[64,32]`` is one.

    Raises
    ------
    UserError
        For an override that is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in overrides:
        _refuse_unsafe(word)
    overrides = [quoted_names(word) for word in overrides]
    sets: list[list[str]] = [[]]
    for word in overrides:
        if word == ";":
            sets.append([])
        else:
            sets[-1].append(word)
    runs: list[tuple[str, ...]] = []
    for one in sets:
        try:
            parsed = OverridesParser.create().parse_overrides(one)
            choices = [
                [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
                if each.is_sweep_override()
                else [str(each.input_line)]
                for each in parsed
            ]
        except (HydraException, ValueError) as error:  # ValueError: a number of too many digits
            first = limits.one_line(str(error).strip().splitlines()[0])
            raise UserError(_unreadable(one) or f"overrides: {first}") from None
        runs += product(*choices)
    return list(dict.fromkeys(runs))


def compose(experiment: str, overrides: Sequence[str]) -> Config:
    """Compose conf/ with Hydra and return the checked configuration; raise as `loaded` does."""
    return config_from_dict(loaded(experiment, overrides))


def simulated_nodes(composed: Mapping[str, Any]) -> int:
    """Return how many nodes a simulation of the composed configuration takes by itself.

    Raises
    ------
    UserError
        ``simulation.sites`` is no number of sites.
    """
    sites = composed["simulation"]["sites"]
    if not isinstance(sites, int) or isinstance(sites, bool) or sites < 1:
        raise UserError(f"simulation.sites={sites}: write a whole number from 1 up")
    return -(-sites // int(composed["cohort"]["sites"]))


def loaded(experiment: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose conf/ with Hydra and return plain data.

    Raises
    ------
    UserError
        For a name that does not exist, with the names that do, and for an override that reaches
        beyond conf/.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _known("experiment", experiment)
    for override in overrides:
        _refuse_unsafe(override)
        _refuse_elsewhere(override)
    overrides = [quoted_names(_chosen(override)) for override in overrides]
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra.compose("config", [f"experiment={experiment}", *overrides])
        found = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, overrides, experiment)) from None
    if not isinstance(found, dict):
        raise UserError("the configuration is not a mapping")
    found["models"] = _with_head(found.get("models") or {}, found.get("model") or {})
    _name_classes(found.get("data"))
    return {str(key): value for key, value in found.items()}


def _with_head(models: dict[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the offered models, each without a hidden layer in its head with that of ``model``.

    So ``model.head=[64]`` gives all of them the same width of features.
    """
    made = {}
    for name, each in models.items():
        made[name] = each
        if isinstance(each, dict) and each.get("head") == [] and model.get("head"):
            dropout = each.get("dropout") or model.get("dropout", 0.0)
            made[name] = {**each, "head": model["head"], "dropout": dropout}
    return made


def _name_classes(data: object) -> None:
    """Make names of numbers in ``data.classes``; raise UserError where what was written is lost."""
    classes = data.get("classes") if isinstance(data, dict) else None
    if not isinstance(classes, dict):
        return
    for task, names in classes.items():
        for place, name in enumerate(names if isinstance(names, list) else ()):
            # Of overrides none is a float (see `quoted_names`): 0.50 in a file is 0.5 already.
            if name is None or isinstance(name, bool | float):
                shown = json.dumps(name)
                raise UserError(
                    f"data.classes.{task}: {shown} is not read as a name; write it in quotes, as in "
                    f'data.classes={{{task}:["{shown}"]}}'
                )
            names[place] = str(name)


def _refuse_unsafe(override: str) -> None:
    """Raise UserError for an override that could read more than it says, or is too much to read.

    OmegaConf's resolvers read environment variables, where keys may stand; Hydra's own options
    name other folders of configuration, and files there have resolvers too.
    """
    shown = f"override {limits.printable(override[:_SHOWN])!r}"
    if len(override) > MOST_OVERRIDE:
        raise UserError(
            f"{shown}... has {len(override)} characters, at most {MOST_OVERRIDE} are read"
        )
    if override == ";":
        return
    if "${" in override:
        raise UserError(f"{shown}: ${{...}} is not resolved in overrides; write the value itself")
    key, _, value = override.partition("=")
    if not key.isascii():
        raise UserError(
            f"{shown}: names of tasks and options have letters from a to z, digits, _ and -"
        )
    if not _KEY.fullmatch(key) or ".." in key:
        raise UserError(
            f"{shown}: write key=value, as in train.batch_size=32 or method=fedper; a value with "
            "spaces stands in quotes"
        )
    if key.lstrip("+~").split(".")[0].split("@")[0] == "hydra":
        raise UserError(f"{shown}: Hydra's own options cannot be changed here")
    _refuse_paths(key, value, shown)
    depth = deepest = 0
    for character in override:
        depth += (character in "[{(") - (character in "]})")
        deepest = max(deepest, depth)
    if max(deepest, key.count(".")) > MOST_DEPTH:
        raise UserError(f"{shown} is nested deeper than {MOST_DEPTH}: write it flatter")


def _refuse_paths(key: str, value: str, shown: str) -> None:
    """Raise UserError for a path of Windows, and for a path that is no override."""
    if _DRIVE.match(value) and (hint := of_windows(value.lstrip("'\""))):
        raise UserError(f"{shown}: {hint}")
    own = re.sub(r"[_.]", "-", key.lower())
    if own in _RUN_KEYS:
        raise UserError(
            f"{shown}: {own} is no override; write it beside them, as in fedstrata run {own}=/data/x "
            f'or flwr run . -c \'{own}="/data/x" overrides="..."\''
        )


def _refuse_elsewhere(override: str) -> None:
    """Raise UserError where the choice of a group is none of conf/: a path would leave the folder."""
    key, given, value = override.lstrip("+~").partition("=")
    group = key.partition("@")[0]
    if given and (CONF / group).is_dir():
        _known(group, value.strip().strip("'\""))


def _chosen(override: str) -> str:
    """Return an override as Hydra writes it.

    ``strategy.coding.common=int8`` and ``method.model=mlp`` are choices, and the entries of `_BY_TASK`
    have names of the user's own.
    """
    if override.startswith((*_BY_TASK, *_ADDED)):
        return f"++{override}"
    if (shared := _SHARED.fullmatch(override)) and shared[1] != "auto":
        _known("model", shared[1], "method.model: ")
        return f"+model@method.model={shared[1]}"
    found = _CODING.fullmatch(override)
    if found is None:
        return override
    key, value = found[1], found[2]
    _known("coding", value, f"{key}: ")
    given = key.rpartition(".")[2] in _CODED_GROUPS
    return f"{'' if given else '+'}coding@{key}={value}"


def _known(group: str, name: str, where: str = "") -> None:
    """Raise UserError unless conf/<group>/<name>.yaml exists; ``where`` begins the text."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if name not in names:
        shown = limits.printable(name[:_SHOWN])
        file = f"; a file is weights=file weights.path={shown}" if "/" in name else ""
        raise UserError(
            f"{where}{group} {shown!r} does not exist; there are: {', '.join(names)} "
            f"(nearest: {nearest(shown, names)})" + (file if group == "weights" else "")
        )


def _explain(error: Exception, overrides: Sequence[str], experiment: str) -> str:
    """Say which override is wrong and which keys or choices exist in its place."""
    if unreadable := _unreadable(overrides):
        return unreadable
    first = str(error).strip().splitlines()[0]
    if full_key := getattr(error, "full_key", None):
        first = f"{full_key}: {first}"
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        group, _, package = key.partition("@")
        if (CONF / group).is_dir() and not package and value:
            names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
            if value not in names:
                return (
                    f"{group} {value!r} does not exist; there are: {', '.join(names)} "
                    f"(nearest: {nearest(value, names)})"
                )
        if key == override.partition("=")[0] and package.startswith("models."):
            return f"{package} is not there yet: write +{override}"
        if key.startswith("models."):  # the names are the user's own
            if f"'{key}'" in first:
                return (
                    f"override {key!r}: there is no such option; +model@models.NAME=small_cnn adds a "
                    "network, and its options are those of its file in conf/model"
                )
            continue
        if key and (missing := _missing_key(key, experiment)):
            return missing
    return f"overrides: {first}"


def _unreadable(overrides: Sequence[str]) -> str | None:
    """Return which override Hydra's parser cannot read, and how to write it; None for none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except (HydraException, ValueError) as error:
            key, _, value = override.partition("=")
            reason = limits.one_line(str(error).strip().splitlines()[0])
            shown = limits.printable(override[:_SHOWN])
            quoted = "" if set(value) & set("'\"\\") else f", as in {key}='{value[:_SHOWN]}'"
            return f"override {shown!r}: {reason}; write a value with such signs in quotes{quoted}"
    return None


def _missing_key(key: str, experiment: str) -> str | None:
    """Return what exists where the dotted ``key`` stops existing, or None where it exists."""
    import hydra
    from omegaconf import DictConfig

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        node: Any = hydra.compose("config", [f"experiment={experiment}"])
    walked: list[str] = []
    for part in key.split("@")[0].split("."):
        if not isinstance(node, DictConfig):
            return None
        if part not in node:
            where = ".".join(walked) or "the configuration"
            names = sorted(str(name) for name in node)
            return (
                f"override {key!r}: {where} has no {part!r}; it has {', '.join(names)} "
                f"(nearest: {nearest(part, names)})"
            )
        walked.append(part)
        node = node._get_node(part)
    return None
