"""Weights & Biases: a run in a folder, which `wandb sync` sends, or at the server at once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedstrata.protocol.plan import one_of
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options
from server_app.trackers.tracker import Plain, Tracker

if TYPE_CHECKING:
    from wandb import Run

MODES = ("offline", "online")
STEP = "round"  # what the numbers are drawn over
PATIENCE = 20  # seconds for a server that does not answer
# Numbers that we log alone: no code, no host name, no output, nothing of the machine's load.
QUIET: dict[str, Any] = {
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "save_code": False,
    "silent": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "host": "",
    "init_timeout": PATIENCE,
    "login_timeout": PATIENCE,
    "finish_timeout": PATIENCE,
}


@dataclass(frozen=True)
class WandbOptions:
    """See conf/tracker/wandb.yaml."""

    project: str
    entity: str
    mode: str


class Wandb(Tracker):
    """Writes a run of Weights & Biases."""

    module, package = "wandb", "wandb"
    _run: Run | None = None

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise UserError for an unknown mode, or a project without a name."""
        chosen = read_options(WandbOptions, options, "tracker")
        one_of("tracker.mode", chosen.mode, MODES)
        if not chosen.project.strip():
            raise UserError("tracker.project must be a name, as in tracker.project=fedstrata")

    @property
    def place(self) -> str:
        """The folder, and with ``online`` the project."""
        folder = str(self.run / "wandb")
        return (
            folder if self.options["mode"] == "offline" else f"{self.options['project']}, {folder}"
        )

    def begin(self, known: str, step: int) -> str:
        """Go on with the run of that id, or begin one; a round that is written again counts last."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        import wandb

        if self._run is not None:
            self._run.finish()
        self._run = wandb.init(
            project=self.options["project"],
            entity=self.options["entity"] or None,
            name=self.run.name,
            id=known or uuid.uuid4().hex[:12],
            dir=str(self.run),
            mode=self.options["mode"],
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**QUIET),
        )
        self.tracked.define_metric(STEP)
        self.tracked.define_metric("*", step_metric=STEP)
        return str(self.tracked.id)

    def parameters(self, values: Mapping[str, Plain]) -> None:
        """Write them as the run's configuration."""
        self.tracked.config.update(dict(values), allow_val_change=True)  # type: ignore[no-untyped-call]

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write one number for each."""
        self.tracked.log({**values, STEP: step})

    def end(self, state: str) -> None:
        """Write how the run ended, and all that is not written yet."""
        self.tracked.summary["state"] = state
        self.tracked.finish(exit_code=0 if state == "complete" else 1)
        self._run = None

    @property
    def tracked(self) -> Run:
        """The run, once it has begun."""
        assert self._run is not None
        return self._run
