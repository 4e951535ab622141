"""Which models are written is decided by their size, and said before round 1."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedstrata.support.errors import UserError
from server_app.compose import compose
from server_app.written_models import WrittenModels, written_models

BOTH = ("last", "best")


def decided(
    *overrides: str, sites: int = 4, megabytes: float = 3, tasks: int = 1, simulated: bool = True
) -> WrittenModels:
    partition: Any = SimpleNamespace(specs={"w": SimpleNamespace(nbytes=int(megabytes * 1e6))})
    names = [f"task-{n % tasks}" for n in range(sites)]
    members: Any = {
        f"site-{n}": SimpleNamespace(task=task, variant=task) for n, task in enumerate(names)
    }
    config = compose("faces", overrides)
    partitions = {f"task-{n}": partition for n in range(tasks)}
    return written_models(config, members, partitions, simulated=simulated)


def test_sites_of_cohorts_write_their_models_where_all_together_are_small() -> None:
    small = decided("cohort.sites=2")
    assert small.states == BOTH
    (line,) = small.lines
    assert line.startswith("each site writes its whole model, last and best: 8 files, some 24 MB")
    large = decided("cohort.sites=2", megabytes=300)
    assert large.states == ()
    (line,) = large.lines
    assert "the sites write no models of their own: 8 files, some 2,400 MB, more than" in line
    assert "keep_models_mb=1000; keep_models=all writes them, keep_models=last half" in line
    assert decided("cohort.sites=2", "keep_models_mb=3000", megabytes=300).states == BOTH


def test_what_is_asked_for_is_written_whatever_its_size() -> None:
    assert decided("cohort.sites=2", "keep_models=all", megabytes=300).states == BOTH
    assert decided("cohort.sites=2", "keep_models=last", megabytes=300).states == ("last",)
    assert decided("keep_models=none", megabytes=300) == WrittenModels((), True, ())


def test_single_sites_write_theirs_and_much_is_said() -> None:
    assert decided() == WrittenModels(BOTH, True, ())
    much = decided(megabytes=300)
    assert much.states == BOTH
    assert "8 files, some 2,400 MB (keep_models=last or none writes fewer)" in much.lines[0]
    assert decided(megabytes=300, simulated=False).lines == ()  # each on its own disk


def test_public_models_of_many_tasks_are_written_where_they_are_asked_for() -> None:
    small = "keep_models_mb=98"
    assert decided(small, sites=32, tasks=32).public
    assert decided(sites=33, tasks=33).public
    many = decided(small, sites=33, tasks=33)
    assert not many.public
    said = (
        "33 tasks, each a file, some 99 MB, more than keep_models_mb=98; public_models=all writes"
    )
    assert said in many.lines[-1]
    assert decided(small, "public_models=all", sites=33, tasks=33).public
    assert not decided("public_models=none").public


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="keep_models_mb must be 0 or greater, got -1"):
        compose("faces", ["keep_models_mb=-1"])
    with pytest.raises(UserError, match="public_models must be one of auto, all, none"):
        compose("faces", ["public_models=some"])
