"""What results.json holds, as plain data; docs/results.md explains each field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstrata.protocol.answers import SiteReport
from fedstrata.protocol.data_description import DataDescription
from fedstrata.protocol.task_kinds import CLASSES, NUMBER
from models.weights import Checkpoint
from server_app import report
from server_app.rounds.records import participation
from server_app.rounds.state import ServerState
from server_app.run_folder import RunFolder
from server_app.sites.members import Member
from strategies.config import Config

ENDS = ("measured_run", "stopped", "final", "best", "cross_site", "deployment")
_OF_A_SITE = ("task", "model", "classes", "input_shape", "examples", "device", "versions")


def results(
    folder: RunFolder,
    config: Config,
    *,
    checkpoints: Mapping[str, Checkpoint],
    partition: Mapping[str, Any],
    state: ServerState,
    members: Mapping[str, Member],
    history: Sequence[Mapping[str, Any]],
    ends: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what results.json holds now.

    Parameters
    ----------
    folder, config : RunFolder, Config
        The run.
    checkpoints : mapping of str to Checkpoint
        The pre-trained start of each model, "" being the only network of a run.
    partition : mapping
        By task, or ``task/model``, the rows of its partition.
    state : ServerState
        Says how groups travel.
    members : mapping of str to Member
        The sites of the rounds, by name.
    history : sequence of mapping
        The records of the rounds that are complete.
    ends : mapping
        What there is after the last round, under the names of `ENDS`; null before.
    """
    return {
        "run": folder.name,
        "federation": folder.federation,
        "config": config.to_dict(),
        "versions": report.versions(),
        "seed": config.seed,
        "weights": _start(checkpoints[""]) if "" in checkpoints else None,
        "starts": {name: _start(each) for name, each in sorted(checkpoints.items()) if name},
        "partition": dict(partition),
        "coding": coding(state),
        "sites": sites(members),
        "rounds": list(history),
        "participation": participation(history, members),
        **{name: ends.get(name) for name in ENDS},
    }


def _start(checkpoint: Checkpoint) -> dict[str, str]:
    return {"content_hash": checkpoint.content_hash, "source": checkpoint.source}


def sites(members: Mapping[str, Member]) -> dict[str, dict[str, Any]]:
    """Return who takes part in the rounds, by name."""
    reports = {name: member.report for name, member in sorted(members.items())}
    return {name: _site(report) for name, report in reports.items()}


def _site(report: SiteReport) -> dict[str, Any]:
    said_of_it = {key: getattr(report, key) for key in _OF_A_SITE}
    said_of_it |= {"model": report.model or None, "data": _description(report.data)}
    kind = report.kind
    if kind.name == CLASSES:
        return {**said_of_it, "kind": CLASSES, "majority_accuracy": report.baseline["accuracy"]}
    if kind.name != NUMBER:
        return {**said_of_it, "kind": kind.name, "baseline": report.baseline}
    numbers = {key: getattr(kind, key) for key in ("loss", "mean", "std", "unit")}
    return {**said_of_it, "kind": kind.name, "numbers": numbers, "baseline": report.baseline}


def _description(said: DataDescription | None) -> dict[str, Any] | None:
    """Return what a site says of its data, or None; the notes are in the log."""
    if said is None:
        return None
    return {
        "range": said.value_range,
        "examples_of_classes": said.counts,
        "source": said.source,
        "digest": said.digest,
    }


def coding(state: ServerState) -> dict[str, dict[str, Any]]:
    """Return how each exchanged group travels, up and down."""
    groups = {g for p in state.partitions.values() for g in p.exchanged_groups()}
    return {
        group: {
            "up": state.codings.from_site(group).to_dict(),
            "down": state.codings.to_site(group).to_dict(),
        }
        for group in sorted(groups)
    }
