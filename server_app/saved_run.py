"""A finished run that is measured again at the sites, and not trained on: ``weights=run``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedstrata.protocol.plan import OF_MODELS
from fedstrata.runs.folder import read_results
from fedstrata.support.errors import UserError
from server_app.compose import RunConfig
from server_app.run_folder import (
    RunFolder,
    Saved,
    check_same,
)
from server_app.run_names import find_run, new_run, resumed_run
from strategies.config import Config, StrategyConfig, config_from_dict

if TYPE_CHECKING:
    from torch import Tensor

    from server_app.rounds.state import ServerState

# What is of this run: how long the server waits, and for whom.
_WAITING = ("sites", "min_sites", "join_timeout", "give_up", "deadline", "poll", "final_timeout")
_OWN = (
    *(f"strategy.{key}" for key in ("rounds", "on_site_error", *_WAITING)),
    *("weights", "cohort", "cross_site", "experiment", "simulation"),
)


@dataclass(frozen=True)
class SavedRun:
    """A run whose state is measured.

    Parameters
    ----------
    folder : RunFolder
        Of the run.
    state : str
        ``last`` or ``best``.
    begun : mapping
        What is written down of the run.
    """

    folder: RunFolder
    state: str
    begun: Mapping[str, Any]

    @property
    def starts(self) -> dict[str, str]:
        """The content hashes of the weights that the run started from, by model; "" for the only one."""
        several = self.begun.get("starts") or {"": self.begun.get("weights", "")}
        return {str(name): str(start) for name, start in several.items()}

    def config(self, own: Config) -> Config:
        """Return the configuration of the measurement: the run's, but for what is ``own``."""
        config = config_from_dict(self.begun["config"])
        waiting = {name: getattr(own.strategy, name) for name in (*_WAITING, "on_site_error")}
        strategy: StrategyConfig = replace(config.strategy, rounds=0, **waiting)
        return replace(
            config,
            strategy=strategy,
            weights=own.weights,
            cohort=own.cohort,
            cross_site=own.cross_site,
            baselines=replace(own.baselines, alone=False, pooled=False),
            deployment=own.deployment,
        )

    def read(self) -> Saved:
        """Return the checkpoint of the state; raise UserError where there is none that is whole."""
        from fedstrata.protocol.orders import BEST  # with Flower, which a command need not wait for

        if self.state == BEST:
            best = (read_results(self.folder.path) or {}).get("best")
            number = best.get("round") if isinstance(best, dict) else None
            if type(number) is not int:
                raise UserError(
                    f"weights.state=best: results.json of {self.folder.name} names no best state: "
                    "write weights.state=last"
                )
            return self.folder.saved(number)
        last = self.folder.latest()
        if last is None:
            raise UserError(f"weights.run: {self.folder.path} has no round that was completed")
        return last


def check_table(config: Config, given: SavedRun | None, *, deployed: bool) -> None:
    """Raise UserError where the sites' models cannot be measured at one another.

    ``given`` is the run that is measured, if it is not one that trains.
    """
    if config.cross_site != OF_MODELS:
        return
    if deployed:
        raise UserError(
            "cross_site=models is for simulations: in a deployment each site's personal layers would "
            "have to leave it for the other sites. Write cross_site=updates, which exchanges none of "
            "them, or cross_site=none"
        )
    if given is not None and given.state not in config.kept_models:
        raise UserError(
            f"cross_site=models reads the sites' {given.state} models from their folders, and in the "
            f"run {given.folder.name} they wrote none (keep_models={config.keep_models}): write "
            "cross_site=none"
        )


def saved_run(config: Config, overrides: Sequence[str], output_dir: Path) -> SavedRun | None:
    """Return the run that ``weights=run`` names, or None for a run that trains.

    Raises
    ------
    UserError
        There is no such run, or an override is of what is the run's.
    """
    if config.weights.get("source") != "run":
        return None
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if not any(key == own or key.startswith(f"{own}.") for own in _OWN):
            raise UserError(
                f"weights=run takes {key} from the run that it measures: leave {override!r} out"
            )
    name = str(config.weights["run"])
    try:
        folder = find_run(output_dir, name, "") if name != "latest" else None
    except UserError as error:
        raise UserError(str(error).replace("resume:", "weights.run:", 1)) from None
    if folder is None:
        raise UserError("weights.run=latest: name the run; `fedstrata runs` lists them")
    return SavedRun(folder, str(config.weights["state"]), folder.begun())


def folder_of(
    wanted: RunConfig, config: Config, given: SavedRun | None
) -> tuple[RunFolder, RunFolder | None]:
    """Return the run's folder, and the same where it is one to go on with; write nothing.

    Raises
    ------
    UserError
        The name is taken or cannot be used, or the run to go on with is another or not there.
    """
    old = resumed_run(wanted.output_dir, wanted.experiment, wanted.resume, wanted.name)
    if old is not None:
        check_same(old.begun()["config"], config.to_dict())
        return old, old
    folder = new_run(wanted.output_dir, wanted.experiment, wanted.name, chosen=wanted.chosen)
    if given is not None:  # under whose name the sites have their personal layers
        folder.federation = given.folder.federation
    return folder, None


def states_of(saved: Saved, state: ServerState, name: str) -> dict[str, dict[str, Tensor]]:
    """Return what the sites are to measure; UserError where a site's task is none of the run."""
    if missing := sorted(state.states.keys() - saved.states.keys()):
        raise UserError(
            f"weights.run={name}: the run has no layers of {', '.join(missing)}, which sites that are "
            "here exchange: leave them out, such as with strategy.sites"
        )
    from server_app.best_state import (
        sent_states,  # with torch, which the first query need not wait for
    )

    return sent_states(saved, state)


def described(
    given: SavedRun, saved: Saved, sites: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return ``measured_run`` of results.json, and the lines that say it."""
    lacking, name = newcomers(saved, sites), given.folder.name
    lines = [
        f"measuring the {given.state} state of {name}, after round {saved.round}; nothing is trained"
    ]
    if lacking:
        lines.append(
            "took no part in that run, so their personal layers are those of its start: "
            + ", ".join(lacking)
        )
    record = {"run": name, "state": given.state, "round": saved.round, "newcomers": lacking}
    return record, lines


def newcomers(saved: Saved, sites: Iterable[str]) -> list[str]:
    """Return the sites that trained in no round of the run: they have no layers of their own."""
    trained = {site for record in saved.history for site in record["participants"]}
    return sorted(set(sites) - trained)
