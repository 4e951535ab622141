"""MLflow: a run in a folder or at a server."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options
from fedstrata.support.paths import of_windows
from server_app.trackers.tracker import Plain, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

Item = TypeVar("Item")
DATABASE = "sqlite:////"
PARAMETERS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # of one request: as many as a server takes
MOST_CHARACTERS = 500  # of a parameter, which a server takes
STATES = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# A server that is down must not stop the rounds; nothing is sent to MLflow's makers. A folder is
# what the user asked for. A person's own values count first.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class MLflowOptions:
    """See conf/tracker/mlflow.yaml."""

    uri: str
    experiment: str


class MLflow(Tracker):
    """Writes a run of MLflow, with its client alone."""

    module, package = "mlflow", "mlflow-skinny"
    _client: MlflowClient | None = None
    _known = ""

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise UserError for a place that is neither a server nor a folder, or has a password."""
        chosen = read_options(MLflowOptions, options, "tracker")
        if not chosen.experiment.strip():
            raise UserError("tracker.experiment must be a name, as in tracker.experiment=fedstrata")
        try:
            parts = urlsplit(chosen.uri)
        except ValueError:
            parts = urlsplit("")
        if "@" in parts.netloc:
            raise UserError(
                "tracker.uri has a user or a password in it, which results.json would show: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the ServerApp runs"
            )
        server = parts.scheme in ("http", "https") and parts.netloc
        local = Path(chosen.uri).is_absolute() or chosen.uri.startswith(DATABASE)
        if chosen.uri and not server and not local:
            raise UserError(
                f"tracker.uri is http://HOST:PORT, https://HOST, {DATABASE}PATH of a database's file or "
                f"the absolute path of a folder, got {chosen.uri[:80]!r}"
                + (f": {hint}" if (hint := of_windows(chosen.uri)) else "")
            )

    @property
    def place(self) -> str:
        """The server's address, the database, or the folder."""
        return self.options["uri"] or str(self.run.parent / "mlruns")

    def begin(self, known: str, step: int) -> str:
        """Go on with the run, or create one where it is not there any more."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        place = self.place if "://" in self.place else Path(self.place).as_uri()
        self._client = client = MlflowClient(tracking_uri=place)
        if known:
            try:
                client.update_run(known, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                known = ""
        if not known:
            name = self.options["experiment"]
            experiment = client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else client.create_experiment(name)
            known = client.create_run(number, run_name=self.run.name).info.run_id
        self._known = known
        return known

    def parameters(self, values: Mapping[str, Plain]) -> None:
        """Write them; a value that is too long is cut."""
        from mlflow.entities import Param

        texts = {name: str(value) for name, value in values.items()}
        params = [Param(name, text[:MOST_CHARACTERS]) for name, text in texts.items()]
        for some in _in_parts(params, PARAMETERS_AT_ONCE):
            self.client.log_batch(self._known, params=some)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write one number for each."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for some in _in_parts(metrics, METRICS_AT_ONCE):
            self.client.log_batch(self._known, metrics=some)

    def end(self, state: str) -> None:
        """Set how the run ended."""
        self.client.set_terminated(self._known, STATES[state])

    @property
    def client(self) -> MlflowClient:
        """The client, once the run has begun."""
        assert self._client is not None
        return self._client


def _in_parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
