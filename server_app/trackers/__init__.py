"""Trackers: where a run is also written down, beside its own folder, for people who compare runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedstrata.support.errors import UserError
from fedstrata.support.registry import find
from server_app.trackers.mlflow import MLflow
from server_app.trackers.tensorboard import TensorBoard
from server_app.trackers.tracker import NoTracker, Tracker
from server_app.trackers.tracking import Tracking
from server_app.trackers.wandb import Wandb

TRACKERS: Mapping[str, type[Tracker]] = MappingProxyType(
    {"none": NoTracker, "tensorboard": TensorBoard, "mlflow": MLflow, "wandb": Wandb}
)


def check_tracker(options: Mapping[str, Any]) -> None:
    """Raise UserError for a tracker that there is not, wrong options, or a missing package."""
    found = find("tracker.name", str(options.get("name")), TRACKERS)
    found.check(options)
    if missing := found.missing():
        raise UserError(
            f"tracker={options['name']} needs the package {missing}: "
            f"pip install 'fedstrata[{options['name']}]' where the ServerApp runs"
        )


def tracking_of(options: Mapping[str, Any], run: Path, log: Any) -> Tracking:
    """Return what writes a run down as ``tracker`` of the configuration says.

    Parameters
    ----------
    options : mapping
        ``tracker`` of the configuration.
    run : Path
        The run's folder.
    log : callable
        Takes text for the log.
    """
    return Tracking(TRACKERS[options["name"]](options, run), run, log)
