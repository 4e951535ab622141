"""The plans that a run's configuration leads to, known before there is a run: what is signed.

    python -m server_app.plans '{"experiment": "faces"}'    # in an app's folder: a JSON list

It composes as the server does, with the code and the configuration of the app that is signed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedstrata.support.errors import UserError
from server_app.compose import compose, expand, read_run_config
from server_app.saved_run import SavedRun, saved_run
from strategies.config import Config, plan_for


def plans(run_config: Mapping[str, object], start: str = "") -> list[str]:
    """Return the plan, as JSON, of each run that a configuration asks for.

    The federation, which differs from run to run, is empty.

    Parameters
    ----------
    run_config : mapping
        Flower's run config.
    start : str
        The checkpoint that the runs start from: its content hash, or ``any`` for whichever comes.
        By default it is read, as the server will do; it is ``any`` where the run trains it.

    Raises
    ------
    UserError
        The configuration is wrong, or the checkpoint cannot be read here.
    """
    wanted = read_run_config(run_config)
    made = []
    for overrides in expand(wanted.overrides):
        config = compose(wanted.experiment, overrides)
        measured = _measured(config, overrides, wanted.output_dir)
        config = config if measured is None else measured.config(config)
        begin, starts = _start(config, start, measured)
        made.append(plan_for(config, federation="", weights=begin, starts=starts).to_json())
    return made


def _measured(config: Config, overrides: Sequence[str], output_dir: Path) -> SavedRun | None:
    """Return the run that is measured, whose settings the plan has; None where one is trained."""
    try:
        return saved_run(config, overrides, output_dir)
    except UserError as error:
        raise UserError(
            f"the plan that is to be signed has the settings of the run that it measures: {error}; "
            "sign where that run's folder is, or name its place with -c output-dir=..."
        ) from None


def _start(config: Config, given: str, measured: SavedRun | None) -> tuple[str, dict[str, str]]:
    """Return the start of a run with one network, and those of several models by their names."""
    if measured is not None:
        starts = dict(measured.starts)
        return given or starts.pop("", ""), starts
    each = [config.of_model(name) for name in config.model_names]
    if all(own.weights.get("source") == "none" for own in each):
        return "", {}
    from server_app.start_weights import hashes_before

    if given:
        return hashes_before(config, given)
    try:
        return hashes_before(config)
    except UserError as error:
        raise UserError(
            f"the checkpoint that is to be signed cannot be read here: {error}; give --checkpoint "
            "with its content hash, or --checkpoint any"
        ) from None


def main(arguments: Sequence[str]) -> None:
    """Print the plans of the configuration that is the first argument, as JSON; then the start."""
    try:
        print(json.dumps(plans(json.loads(arguments[0]), *arguments[1:])))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
