"""Trackers are chosen by name; a missing package is said with the line that installs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedstrata.support.errors import UserError
from server_app.compose import compose
from server_app.trackers import TRACKERS, check_tracker, tracking_of
from server_app.trackers.tracker import NoTracker
from tests.docs.pages import ROOT
from tests.helpers.runs import SMALL
from tests.loopback import simulate


def test_each_tracker_has_a_file_in_conf() -> None:
    files = {path.stem for path in (ROOT / "conf" / "tracker").glob("*.yaml")}
    assert files == set(TRACKERS)
    for name in files:
        check_tracker(compose("faces", [f"tracker={name}"]).tracker)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "comet"}, "there are: none, tensorboard, mlflow, wandb"),
        (
            {"name": "wandb", "project": "a", "entity": "", "mode": "on"},
            "mode must be one of offline",
        ),
        (
            {"name": "wandb", "project": " ", "entity": "", "mode": "offline"},
            "project must be a name",
        ),
        ({"name": "tensorboard", "folder": "runs"}, "tracker.folder must be an absolute path"),
        ({"name": "tensorboard", "folder": "", "uri": ""}, "tracker has no option 'uri'"),
        (
            {"name": "mlflow", "uri": "mlruns", "experiment": "x"},
            "or the absolute path of a folder",
        ),
        ({"name": "mlflow", "uri": "sqlite:///a.db", "experiment": "x"}, "sqlite:////PATH of"),
        ({"name": "mlflow", "uri": "ftp://a/b", "experiment": "x"}, "or the absolute path"),
        ({"name": "mlflow", "uri": "http://", "experiment": "x"}, "or the absolute path"),
        (
            {"name": "mlflow", "uri": "http://a:b@c:1", "experiment": "x"},
            "MLFLOW_TRACKING_PASSWORD",
        ),
        ({"name": "mlflow", "uri": "http://[", "experiment": "x"}, "or the absolute path"),
        ({"name": "mlflow", "uri": "", "experiment": " "}, "tracker.experiment must be a name"),
    ],
)
def test_wrong_options_are_refused(options: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_tracker(options)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_said_before_any_site_is_asked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TRACKERS[name], "module", "no_such_package")
    with pytest.raises(UserError, match=rf"pip install 'fedstrata\[{name}\]'"):
        simulate(tmp_path, "faces", [*SMALL, f"tracker={name}"], sites=0)


def test_nothing_of_a_tracker_is_imported_until_a_run_has_one(tmp_path: Path) -> None:
    code = (
        "import sys; import server_app.trackers as t; t.check_tracker({'name': 'mlflow', 'uri': '', "
        "'experiment': 'x'}); print({'mlflow', 'tensorboard', 'torch', 'wandb'} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
    assert isinstance(tracking_of({"name": "none"}, tmp_path, print).tracker, NoTracker)
