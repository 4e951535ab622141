"""Which models are written as files at the end of a run, and what the log says of it before round 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.groups import Partition
from server_app.sites.members import Member
from strategies.config import AUTO, Config

MEGABYTE = 1e6
MANY_TASKS = 32  # above it the public models are counted in MB, too


@dataclass(frozen=True)
class WrittenModels:
    """What is written.

    Parameters
    ----------
    states : tuple of str
        Of which states each site writes its whole model: ``last`` and ``best``.
    public : bool
        Whether the server writes the public part, of each task.
    lines : tuple of str
        What the log says.
    """

    states: tuple[str, ...]
    public: bool
    lines: tuple[str, ...]


def written_models(
    config: Config,
    members: Mapping[str, Member],
    partitions: Mapping[str, Partition],
    *,
    simulated: bool,
) -> WrittenModels:
    """Decide what is written, once it is known who takes part.

    The sites of a simulation write to one disk, so their models are counted together. What a method
    keeps beside the layers is not known yet, and not counted.

    Parameters
    ----------
    config : Config
        The run's.
    members : mapping of str to Member
        The sites.
    partitions : mapping of str to Partition
        Of each variant.
    simulated : bool
        Whether the sites share a machine.
    """
    sizes = {task: _size(partition) for task, partition in partitions.items()}
    of_all = sum(sizes[member.variant] for member in members.values())
    states, lines = config.kept_models, []
    few = config.keep_models_mb * MEGABYTE
    if states and simulated:
        total = of_all * len(states)
        many = f"{len(members) * len(states)} files, some {_words(total)}"
        if total > few and config.keep_models == AUTO and config.cohort.sites > 1:
            lines.append(
                f"the sites write no models of their own: {many}, more than keep_models_mb="
                f"{config.keep_models_mb:g}; keep_models=all writes them, keep_models=last half of them"
            )
            states = ()
        elif total > few or config.cohort.sites > 1:
            which = " and ".join(states)
            lines.append(f"each site writes its whole model, {which}: {many} ({_less(config)})")
    of_tasks = sum(sizes.values())
    too_many = len(sizes) > MANY_TASKS and of_tasks > few
    if too_many and config.public_models == AUTO:
        lines.append(
            f"the public part of the model is not written: {len(sizes)} tasks, each a file, some "
            f"{_words(of_tasks)}, more than keep_models_mb={config.keep_models_mb:g}; "
            "public_models=all writes them"
        )
    public = config.public_models == "all" or (config.public_models == AUTO and not too_many)
    return WrittenModels(states, public, tuple(lines))


def _size(partition: Partition) -> int:
    return sum(spec.nbytes for spec in partition.specs.values())


def _words(size: float) -> str:
    return f"{size / MEGABYTE:,.0f} MB" if size >= MEGABYTE else f"{size / 1e3:.0f} kB"


def _less(config: Config) -> str:
    return "keep_models=last or none writes fewer" if len(config.kept_models) > 1 else "keep_models"
