"""What a node decides itself: its name, its data, its device, its folders and its limits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedstrata.protocol.data_description import DEFAULT, read_choices
from fedstrata.protocol.limits import NAME
from fedstrata.support.errors import UserError, nearest, private
from fedstrata.support.folders import default_models_dir
from fedstrata.support.home import home
from fedstrata.support.paths import absolute_path

DEFAULT_CACHE_GB = 20


@dataclass(frozen=True)
class NodeSettings:
    """The settings of a site's node, from ``--node-config``; in a simulation, from the run config.

    Parameters
    ----------
    name, task : str or None
        ``site`` and ``task``; None leaves them to the data set.
    index, count : int or None
        ``partition-id`` and ``num-partitions``, as Flower's simulation gives them.
    data_root : Path or None
        ``data-root``: the folder (or file) with the site's data.
    state_dir : Path
        ``state-dir``: personal layers, by federation and site.
    cache_dir : Path
        ``cache-dir``: pre-trained checkpoints and outputs of frozen layers, by content hash.
    cache_gb : int
        ``cache-gb``: the most that outputs of frozen layers may take there, in 10^9 bytes.
    models_dir : Path
        ``models-dir``: folders with models made elsewhere, which a run names without their path.
    device : str
        ``device``: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int or None
        ``threads``: CPU threads of the site's process.
    max_steps : int or None
        ``max-steps``: the most optimizer steps the site does in a round.
    model : str or None
        ``model``: which of the networks that a run offers the site trains; None names none.
    describe : tuple of str
        ``describe``: what the server may know of the data: ``range``, ``classes``.
    simulated : bool
        Whether this is a site of a simulation.
    """

    name: str | None
    task: str | None
    index: int | None
    count: int | None
    data_root: Path | None
    state_dir: Path
    cache_dir: Path
    cache_gb: int
    models_dir: Path
    device: str
    threads: int | None
    max_steps: int | None
    simulated: bool
    describe: tuple[str, ...] = DEFAULT
    model: str | None = None


KEYS = (
    "site",
    "task",
    "partition-id",
    "num-partitions",
    "data-root",
    "state-dir",
    "cache-dir",
    "cache-gb",
    "models-dir",
    "device",
    "threads",
    "max-steps",
    "describe",
    "model",
)


_entered = False


def enter_simulation() -> None:
    """Make this process one of a simulation: `fedstrata.engine` started it for that."""
    global _entered
    _entered = True


def in_simulation() -> bool:
    """Return whether this process is one of a simulation: our engine's, or Flower's, which has Ray."""
    return _entered or "ray" in sys.modules


def is_simulated(node_config: Mapping[str, Any]) -> bool:
    """Return whether a node is one of a simulation: Flower gives it a partition alone.

    A deployed SuperNode may have no more than that either; the process tells them apart.
    """
    return in_simulation() and node_config.keys() == {"partition-id", "num-partitions"}


def read_node_settings(
    node_config: Mapping[str, Any], run_config: Mapping[str, Any]
) -> NodeSettings:
    """Return the node's settings.

    ``data-root`` and ``output-dir`` of the run config count in a simulation only. In a deployment
    nothing that the server says chooses a folder at the site.

    Raises
    ------
    UserError
        For an unknown key, a value of the wrong type, or a relative path.
    """
    for key in node_config:
        if key not in KEYS:
            raise UserError(
                f"node-config has no key {key!r}; there are {', '.join(KEYS)} "
                f"(nearest: {nearest(key, KEYS)})"
            )
    # A deployed site reads no folder of the run config: whoever starts a run would choose files.
    simulated = is_simulated(node_config)
    data_root = _path(node_config, "data-root")
    state_dir = _path(node_config, "state-dir")
    cache_gb = _count(node_config, "cache-gb", least=0)
    if simulated:
        data_root = data_root or _path(run_config, "data-root")
        state_dir = state_dir or (_path(run_config, "output-dir") or home() / "runs")
    return NodeSettings(
        name=_name(node_config, "site"),
        task=_name(node_config, "task"),
        index=_count(node_config, "partition-id", least=0),
        count=_count(node_config, "num-partitions", least=1),
        data_root=data_root,
        state_dir=state_dir or home() / "sites",
        cache_dir=_path(node_config, "cache-dir") or home() / "cache",
        cache_gb=DEFAULT_CACHE_GB if cache_gb is None else cache_gb,
        models_dir=_path(node_config, "models-dir") or default_models_dir(),
        device=str(node_config.get("device", "auto")),
        threads=_count(node_config, "threads", least=1),
        max_steps=_count(node_config, "max-steps", least=1),
        simulated=simulated,
        describe=read_choices(str(node_config.get("describe", ",".join(DEFAULT))), "describe"),
        model=_name(node_config, "model"),
    )


def name_in_simulation(node: NodeSettings) -> str:
    """Return how a site of a simulation is called until its data give it a name; else ""."""
    return f"site-{node.index:02d}" if node.simulated and node.index is not None else ""


def checked_name(value: str, what: str) -> str:
    """Return ``value`` if it can be a file's name on any system, or raise UserError."""
    if not NAME.fullmatch(value):
        raise UserError(
            what
            + private(f" {value[:80]!r}")
            + " cannot be used: letters, digits, '.', '_' and '-', "
            "at most 64 characters, beginning with a letter or digit"
        )
    return value


def _name(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    return None if value is None else checked_name(str(value), key)


def _path(config: Mapping[str, Any], key: str) -> Path | None:
    value = str(config.get(key) or "")
    if not value:
        return None
    path = Path(value)
    with contextlib.suppress(RuntimeError):  # the home of nobody
        path = path.expanduser()
    why = "the app does not run in the folder in which you typed the command"
    return path if path.is_absolute() else absolute_path(value, key, why)


def _count(config: Mapping[str, Any], key: str, *, least: int) -> int | None:
    value = config.get(key)
    if value is None:
        return None
    # In Python True is an int, and "threads=true" would be one thread.
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key} must be a whole number, at least {least}, got {value!r}")
    return int(value)


# Every key has a field; `simulated` follows from them.
assert len(KEYS) == len(fields(NodeSettings)) - 1
