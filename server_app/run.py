"""One run, from the sites that joined to its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.superlink.grid.grpc_grid import GrpcGrid

from fedstrata.protocol import kinds
from fedstrata.protocol.orders import LAST
from fedstrata.protocol.plan import OF_MODELS, OF_UPDATES, Plan
from fedstrata.support.errors import UserError
from models.weights import Checkpoint
from server_app import report, results, tables
from server_app.agreement import agree, agree_on_categories
from server_app.audit import RunAudit
from server_app.baseline_cache import Baselines, baselines_of
from server_app.best_state import measured_best
from server_app.checkpoints import Checkpoints, again, saved_where_it_ends
from server_app.choosing import stop_reason
from server_app.cross_site import crossed_models, table_of_models, table_of_updates
from server_app.data_lines import data_lines
from server_app.decided_lines import decided_lines
from server_app.deployment import check_newcomers, deploy
from server_app.evaluation import last_ask, measure, measure_saved, saved_ask
from server_app.history_file import PlainRecord
from server_app.known_alone import KnownAlone
from server_app.patience import Log
from server_app.progress import RunProgress
from server_app.results_file import ResultsFile
from server_app.rounds.admission import Admission, ClosedAdmission
from server_app.rounds.checkpoint_delivery import CheckpointDelivery
from server_app.rounds.dispatch import Dispatch, last_whole
from server_app.rounds.judging import suspects as suspects_of
from server_app.rounds.loop import Rounds, UnusableState
from server_app.rounds.opening import open_run
from server_app.rounds.state import GroupCheckpoint, ServerState
from server_app.run_folder import RunFolder, Saved
from server_app.saved_run import SavedRun, described, newcomers, states_of
from server_app.sites.members import Member, RejectedSite
from server_app.sites.roster import Roster
from server_app.start_weights import PretrainingJob, check_weights, trained
from server_app.time_left import stages_after
from server_app.trackers import tracking_of
from server_app.written_models import WrittenModels, written_models
from strategies.config import Config
from strategies.method import (
    check_codings,
    check_crossing,
    check_exchanged,
    check_halves,
)
from strategies.methods import make_method


def checked(config: Config) -> ServerState:
    """Return the state that a run begins with, once all is checked that needs no site.

    Raises
    ------
    UserError
        For a method, an aggregator, a coding or weights that do not exist, whose options are wrong,
        or that do not go together; and for settings of a group that does not travel.
    """
    method, strategy = make_method(config.method), config.strategy
    check_codings(method, strategy.codings)
    check_exchanged(method, "strategy.minimum", strategy.minimum)
    check_exchanged(method, "strategy.aggregators", strategy.aggregators)
    check_weights(config)
    check_halves(method, tuned=bool(config.deployment.epochs))
    method.check_training(config.train)
    check_crossing(method, config.cross_site)
    cohorts = config.cohort.sites > 1
    state = ServerState(
        *(method, strategy.aggregators, cohorts, strategy.codings, config.seed),
        teaching=strategy.teacher,
        threads=config.train.threads,
    )
    for group, each in method.known_groups().items():
        if group in strategy.aggregators or each.knowledge or each.down_only:
            state.aggregator(group)
    return state


class Run:
    """A run while it runs: `join`, then `play`.

    Parameters
    ----------
    roster : Roster
        Who takes part, over Flower's grid.
    config : Config
        The run's configuration.
    plan : Plan
        What the sites need to know.
    folder : RunFolder
        Where checkpoints and results go.
    starts : mapping of str to Checkpoint or PretrainingJob
        The pre-trained start by model, "" for the only one; or how to make it, once the sites joined.
    log : callable
        Takes text for the log.
    audit : RunAudit
        The run's audit log.
    progress : RunProgress
        Says where the run is while it goes on.
    """

    def __init__(
        self,
        roster: Roster,
        config: Config,
        plan: Plan,
        folder: RunFolder,
        starts: Mapping[str, Checkpoint | PretrainingJob],
        log: Log,
        audit: RunAudit,
        progress: RunProgress,
    ) -> None:
        self.audit, self.progress = audit, progress
        self.roster, self.config, self.plan, self.folder = roster, config, plan, folder
        self.starts, self.log = starts, log
        self.history: list[dict[str, Any]] = []
        self.ends: dict[str, Any] = {}
        self.opening: dict[str, Any] | None = None
        self.written = WrittenModels((), False, ())
        settings = config.strategy
        self.state = checked(config)
        self.checkpoints = Checkpoints(folder, settings, config.choose)
        self.results_file = ResultsFile(folder)
        self.tracking = tracking_of(config.tracker, folder.path, log)
        self.admission = Admission(
            roster, self.state, plan, starts, settings.on_site_error == "stop", log
        )
        self.dispatch = Dispatch(
            roster.grid, roster, self.state, settings, self.admission, log, audit, progress
        )
        self.delivery = CheckpointDelivery(self.dispatch, self.admission.holders)
        self.rounds = Rounds(
            roster,
            self.state,
            settings,
            config.seed,
            self.dispatch,
            self.delivery,
            log,
            config.choose,
            self.checkpoints.to_resume_from,
        )

    def join(self, found: list[Member], rejected: list[RejectedSite]) -> None:
        """Take in the sites that can take part, and log what was decided.

        Raises
        ------
        UserError
            Where a site cannot take part and the run is to stop then, or none can.
        """
        self.admission.begin(found, rejected)
        self.log(tables.sites_table(results.sites(self.roster.members)))
        for line in data_lines(self.roster.members):
            self.log(line)
        if not self.roster.members:
            raise UserError("no site can take part")
        check_newcomers(self.roster, self.state.partitions)
        self.written = written_models(
            self.config,
            self.roster.members,
            self.state.partitions,
            simulated=not isinstance(self.roster.grid, GrpcGrid),
        )
        for line in (*decided_lines(self.roster, self.state, self.config), *self.written.lines):
            self.log(line)
        self.admission.begun = True

    def play(self, saved: Saved | None) -> dict[str, Any]:
        """Play the rounds that are left, evaluate, fine-tune; return what results.json holds.

        Parameters
        ----------
        saved : Saved or None
            The checkpoint from which the run continues.
        """
        self._load_starts()
        if self.plan.wants_sums:
            scale = agree(self.dispatch, self.config.strategy.min_sites)
            self.plan = replace(self.plan, agreed=scale)
            self.admission.change_scale(self.plan)
        self.folder.note_agreed(self.plan)
        self.folder.note_weights(self.plan)
        self.audit.admitted(self.roster.everyone.values())
        first = 1
        if saved is not None:
            self._resume(saved)
            first = saved.round + 1
        if (repeated := again(first, self.progress.played_before)) or first > 1:
            where = f"after round {first - 1}" if first > 1 else "from the start"
            self.log(f"resuming {where}{repeated}")
        begin_progress(self)
        self.opening = open_run(self.rounds) if first == 1 else None
        with saved_where_it_ends(self.checkpoints, self._note_end, self.log):
            self._play_rounds()
        if reason := self._stop_reason():
            played, total = len(self.history), self.config.strategy.rounds
            self.log(f"stopped after round {played} of {total}: {reason}")
            self.ends["stopped"] = {"round": played, "reason": reason}
        if owed := report.owed_line(self.history):
            self.log(owed)
        return self._end()

    def _play_rounds(self) -> None:
        total, suspects, alone = self.config.strategy.rounds, dict[str, str](), self._known_alone()
        while (number := len(self.history) + 1) <= total and not self._stop_reason():
            try:
                record = self.rounds.play(number, self.history)
            except UnusableState as error:
                suspects |= self._go_back(error)
                continue
            record.suspects, suspects = suspects, {}
            if number == 1 and self.opening is not None:
                record.begin_with(self.opening)
            self.history.append(PlainRecord(record.to_dict()))
            # Before the log says that the round is done.
            saved = self.checkpoints.after_round(self.state, self.history)
            self.audit.played(self.history[-1], self.roster.everyone.values())
            alone.look(self.roster.members, record.sites)
            self.log(report.round_line(record, total, alone.values))
            if saved:
                self._note_saved(self.history[-1])
            self.progress.played(record, self.history, alone.values)

    def _note_saved(self, record: dict[str, Any]) -> None:
        """Note that the checkpoint of the round of ``record`` is on disk; write results.json if due."""
        self.audit.saved(record, self.folder.path)
        if self.results_file.is_due():
            self._write_results()

    def _note_end(self, record: dict[str, Any] | None) -> None:
        """Bring results.json up to the last checkpoint, of ``record`` if it has just been written."""
        if record is not None:
            self._note_saved(record)
        if self.results_file.is_behind:
            self._write_results()

    def _stop_reason(self) -> str:
        every = self.config.strategy.checkpoint_every
        return stop_reason(self.history, self.config.choose, saved_every=every)

    def _known_alone(self) -> KnownAlone:
        baselines = self._baselines()
        cache = baselines.cache if baselines.config.alone else None
        return KnownAlone(cache, self.config.strategy.rounds)

    def _baselines(self) -> Baselines:
        config, plan = self.config, self.admission.plan
        return baselines_of(
            config.baselines, config.cohort.sites, self.roster, plan, self.folder.name, self.log
        )

    def _end(self) -> dict[str, Any]:
        """Evaluate the last state and the best one, fine-tune; return what results.json holds."""
        refused = self.history[-1]["refused"] if self.history else ()
        self.delivery.deliver(self.roster.everyone.keys(), refused)
        kept, baselines = self.written.states, self._baselines()
        keep, played = LAST if LAST in kept else "", len(self.history)
        last = last_trained(self)
        final = measure(self.dispatch, baselines, keep=keep, state=played, last=last)
        self.ends["final"] = final
        self._write_results()
        self.ends["best"] = measured_best(
            self.dispatch, self.folder, self.history, self.config.choose, final, kept
        )
        if self.config.cross_site == OF_UPDATES:
            ask = replace(last_ask(self.dispatch, kinds.EVALUATE), last=last)
            self.ends["cross_site"] = table_of_updates(self.dispatch, ask, final, played)
        if self.config.deployment.epochs:
            self._write_results()
            alone = self.config.baselines.alone
            self.ends["deployment"] = deploy(
                self.dispatch, final, alone=alone, state=played, last=last
            )
        self._cross(kept, played)
        return self._write_results()

    def _cross(self, kept: Sequence[str], played: int) -> None:
        """Measure the sites' models at one another, where that is wanted."""
        if self.config.cross_site == OF_MODELS:
            self._write_results()  # what there is so far
            crossed = crossed_models(self.ends, kept, played)
            self.ends["cross_site"] = table_of_models(self.dispatch, crossed)

    def measure(self, given: SavedRun) -> dict[str, Any]:
        """Measure a state of a finished run at the sites; return what results.json holds."""
        self._load_starts()
        self.folder.note_weights(self.plan)
        self.audit.admitted(self.roster.everyone.values())
        saved = given.read()
        states = states_of(saved, self.state, given.folder.name)
        self.ends["measured_run"], lines = described(given, saved, self.roster.members)
        for line in lines:
            self.log(line)
        begin_progress(self)
        self.delivery.deliver(self.roster.everyone.keys(), ())
        ask = saved_ask(self.dispatch, saved, states, newcomers(saved, self.roster.members))
        self.ends["final"] = measure_saved(self.dispatch, ask)
        self._cross(self.config.kept_models, saved.round)
        return self._write_results()

    def _load_starts(self) -> None:
        """Start all models from their checkpoints; sites that lack theirs get it before a round."""
        if not self.starts:
            return
        made = trained(self.starts, self.log)
        hashes = {name: each.content_hash for name, each in made.items()}
        self.plan = replace(self.plan, weights=hashes.pop("", ""), starts=hashes)
        self.admission.start_from(made, self.plan)
        self.delivery.checkpoints = made

    def _go_back(self, error: UnusableState) -> dict[str, str]:
        """Go back to the last checkpoint before the round that made an unusable state.

        Returns
        -------
        dict of str to str
            The sites that are left out from then on, and why.

        Raises
        ------
        UserError
            Where no site's update stood out in that round.
        """
        made = error.number - 1
        found = suspects_of(self.history[-1]["norms"])
        what = f"round {error.number}: most sites cannot use the state of round {made} ({error})"
        if not found:
            raise UserError(
                f"{what}, and no site's update stood out in that round: lower train.optimizer.lr or "
                "set train.clip, and start a new run"
            )
        good = self.checkpoints.go_back(made - 1)
        repeated = again(good + 1, made - 1)
        self.log(f"{what}; back to the state of round {good}{repeated}")
        reasons = {
            site: f"suspected since round {made}: {why}, and most sites could not use the result"
            for site, why in found.items()
        }
        self.admission.leave_out(reasons)  # first: what opens the run again is without them, too
        self.admission.start_again()
        saved = self.folder.go_back(good)
        if saved is not None:
            self._resume(saved)
        else:
            self.opening = open_run(self.rounds)
        self.history = self.history[:good]
        for site in self.roster.everyone:
            self.state.downlink.failed(site)  # what sites know is of rounds that are given up
        for site, why in reasons.items():
            self.log(f"{site} is left out from now on: {why}")
        return reasons

    def _resume(self, saved: Saved) -> None:
        """Continue from a checkpoint; it must have what the model of now exchanges."""
        self.state.checkpoints = {
            key: GroupCheckpoint(state, saved.optimizers.get(key, {}), saved.published.get(key, {}))
            for key, state in saved.states.items()
        }
        for key, state in self.state.states.items():
            if not self.state.fits(key, state):
                raise UserError(f"resume: the checkpoint's group {key!r} is of another model")
        for key in list(self.state.states):
            self.state.load(key)
        self.history = list(saved.history)
        for record in self.history:
            self.admission.leave_out(record["suspects"])

    def _write_results(self) -> dict[str, Any]:
        """Write results.json as it is now, and return what it holds."""
        content = self.results_file.write(lambda: results_of(self))
        self.tracking.update(content)
        return content


def results_of(run: Run) -> dict[str, Any]:
    """Return what results.json holds now."""
    return results.results(
        run.folder,
        run.config,
        checkpoints=run.delivery.checkpoints,
        partition=run.admission.summaries,
        state=run.state,
        members=run.roster.members,
        history=run.history,
        ends=run.ends,
    )


def begin_progress(run: Run) -> None:
    """Note who takes part in a run, and how long it is."""
    config, everyone = run.config, run.roster.everyone
    run.progress.join({name: member.variant for name, member in everyone.items()})
    members, newcomers = run.roster.members, len(run.roster.newcomers)
    examples = [member.report.examples["train"] for member in members.values()]
    afterwards = stages_after(
        config,
        {name: member.task for name, member in members.items()},
        newcomers,
        sum(examples) / max(len(examples), 1),
        simulated=not isinstance(run.roster.grid, GrpcGrid),
    )
    run.progress.begin(config.strategy.rounds, run.history, afterwards)


def last_trained(run: Run) -> dict[str, int]:
    """Return by site the round of its last update that was taken."""
    keys = {
        member.site: run.state.leaving_keys(member.variant).values()
        for member in run.roster.members.values()
    }
    return last_whole(run.history, keys)


def with_categories(asking: Run) -> Plan:
    """Return the plan with the categories of all sites, which are to be asked anew with it."""
    # Who comes meanwhile is asked with the plan that follows, and not judged by this one.
    closed = ClosedAdmission(asking.roster, asking.state, asking.plan, {}, False, asking.log)
    dispatch = replace(asking.dispatch, admission=closed)
    least = asking.config.strategy.min_sites
    plan = replace(asking.plan, categories=agree_on_categories(dispatch, least, asking.plan.data))
    asking.roster.change_plan(plan.to_json())
    asking.roster.clear()
    return plan
