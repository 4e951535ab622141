"""`fedstrata tune`: fine-tunes a run's public model on the data of a hospital that took no part."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from fedstrata.cli.model_argument import add_model, find_model
from fedstrata.protocol.limits import printable
from fedstrata.support.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Tune the model; end with 1 where that cannot be."""
    options = parser().parse_intermixed_args(arguments)
    try:
        for line in tune(options):
            print(printable(line))
    except UserError as error:
        print(printable(f"fedstrata tune: {error}"), file=sys.stderr)
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="fedstrata tune",
        description="Takes a run's public model, fine-tunes it on one's own data with the code of "
        "a site, measures before and after, and writes a model of one's own. Nothing leaves.",
    )
    add_model(made)
    made.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="data-root=/data/pictures; site=, device=, state-dir=; data.*, train.* and "
        "deployment.epochs, .groups, .lr_factor as in a run",
    )
    return made


def tune(options: argparse.Namespace) -> list[str]:
    """Return what was done, for a person."""
    path = find_model(options.model, options.runs)
    from client_app import tuning
    from models.model_file import read_model
    from models.training.loop import Diverged

    node_config, overrides = tuning.split_words(options.settings)
    model = read_model(path)
    node, plan = tuning.node_of(model.card, node_config), tuning.plan_of(model.card, overrides)
    groups = (plan.tuning.groups or ()) if _names_groups(overrides) else ()
    print(printable(f"{path}: task {model.card.task}, after round {model.card.round}"))
    try:
        made = tuning.tune(model, node, plan, groups)
    except Diverged as error:
        raise UserError(f"{error}: nothing was written") from None
    report = made.report
    lines = [
        f"site {made.site}: {report.tuned} parameters of {', '.join(made.groups)} fine-tuned on "
        f"{report.examples} examples, {plan.tuning.epochs} epochs"
    ]
    lines += _table(report.before, report.after)
    return [*lines, f"the site's model: {made.path}"]


def _names_groups(overrides: Sequence[str]) -> bool:
    return any(word.startswith("deployment.groups=") for word in overrides)


def _table(
    before: Mapping[str, Mapping[str, float | None]],
    after: Mapping[str, Mapping[str, float | None]],
) -> list[str]:
    """Return the measures of both splits before and after."""
    lines = [f"{'':28}{'before':>10}{'after':>10}"]
    for split in ("validation", "test"):
        for name, value in before[split].items():
            if name != "examples" and "/" not in name:
                cells = "".join(
                    f"{'-' if each is None else f'{each:.4f}':>10}"
                    for each in (value, after[split].get(name))
                )
                lines.append(f"{split + ' ' + name:28}{cells}")
    return lines
