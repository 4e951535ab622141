"""The plans that a run's configuration leads to, known before there is a run: what is signed.

    python -m server_app.plans '{"experiment": "faces"}'    # in an app's folder: a JSON list

It composes as the server does, with the code and the configuration of the app that is signed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from fedstrata.support.errors import UserError
from server_app.compose import compose, expand, read_run_config
from strategies.config import plan_for


def plans(run_config: Mapping[str, object]) -> list[str]:
    """Return the plan, as JSON, of each run that a configuration asks for.

    What differs from run to run, and is not signed, is empty: the federation and the checkpoint.

    Raises
    ------
    UserError
        The configuration is wrong.
    """
    wanted = read_run_config(run_config)
    made = []
    for each in wanted.each(expand(wanted.overrides)):
        config = compose(each.experiment, each.overrides)
        made.append(plan_for(config, federation="", weights="").to_json())
    return made


def main(arguments: Sequence[str]) -> None:
    """Print the plans of the configuration that the one argument is, as JSON."""
    try:
        print(json.dumps(plans(json.loads(arguments[0]))))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
