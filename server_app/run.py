"""One run of a federation: who joins, what they learn round by round, and how good it became."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fedstrata.protocol import answers, kinds, limits
from fedstrata.protocol.answers import SiteReport
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.payload import encode
from fedstrata.protocol.plan import Plan
from fedstrata.protocol.tensors import TensorSpec
from fedstrata.support.errors import UserError
from models.groups import PRETRAINED, Partition, exchanged, scope_key
from models.weights import Checkpoint
from server_app import report
from server_app.deployment import check_newcomers, deploy
from server_app.evaluation import measure
from server_app.rounds.admission import described_schema, schema_difference
from server_app.rounds.loop import Rounds
from server_app.rounds.records import RoundRecord, participation
from server_app.rounds.state import GroupCheckpoint, ServerState
from server_app.run_folder import RunFolder, Saved, write_json
from server_app.sites.members import Member, RejectedSite
from server_app.sites.roster import Roster
from server_app.start_weights import PretrainingJob, read_weights
from strategies.aggregators.buffered import BufferedAggregator
from strategies.aggregators.server_optimizers import ServerOptimizer
from strategies.config import Config
from strategies.method import check_codings, check_travels
from strategies.methods import make_method
from strategies.partitioned_model import PartitionedModel, build_partitioned

if TYPE_CHECKING:
    from torch import Tensor

Log = Callable[[str], None]


def checked(config: Config) -> ServerState:
    """Return what the server of a run begins with, once all is checked that hangs on no site.

    Raises
    ------
    UserError
        For a method, an aggregator, a coding or weights that do not exist, whose options are wrong,
        or that do not go together; and for settings of a group that does not travel.
    """
    method, strategy = make_method(config.method), config.strategy
    check_codings(method, strategy.codings)
    check_travels(method, "strategy.minimum", strategy.minimum)
    check_travels(method, "strategy.aggregators", strategy.aggregators)
    read_weights(config)
    server_state = ServerState(
        method, strategy.aggregators, config.cohort.sites > 1, strategy.codings
    )
    for group in strategy.aggregators:
        server_state.aggregator(group)
    return server_state


@dataclass
class Federation:
    """Everything that a run is while it runs.

    Parameters
    ----------
    roster : Roster
        Who takes part, over Flower's grid.
    config : Config
        The run's configuration.
    plan : Plan
        What the sites are told.
    folder : RunFolder
        Where checkpoints and results go.
    start : Checkpoint, PretrainingJob or None
        The pre-trained start, or how to make it once it is known that the sites can take part.
    log : callable
        Takes text for the log.
    """

    roster: Roster
    config: Config
    plan: Plan
    folder: RunFolder
    start: Checkpoint | PretrainingJob | None
    log: Log
    history: list[dict[str, Any]] = field(default_factory=list)
    summaries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server_state = checked(self.config)
        self.method = self.server_state.method
        self.rounds = Rounds(
            grid=self.roster.grid,
            roster=self.roster,
            server_state=self.server_state,
            settings=self.config.strategy,
            seed=self.config.seed,
            admit=self.admit,
            serve=lambda: self._serve(self.roster.members.keys() - self.silent),
            log=self.log,
            history=self.history,
        )
        self.references: dict[str, SiteReport] = {}
        self.checkpoint: Checkpoint | None = None
        self.unserved: set[str] = set()  # sites that may not have the checkpoint on their disk
        self.silent: set[str] = set()  # and those of them that left the last question unanswered
        self.joined = False

    def run(self, saved: Saved | None) -> dict[str, Any]:
        """Play the rounds that are left, evaluate, and return what results.json holds."""
        if self.start is not None:
            self._start_from(self.start)
        self.folder.note_weights(self.plan.weights)
        first = 1
        if saved is not None:
            self._take_up(saved)
            first = saved.round + 1
            self.log(f"resuming after round {saved.round}")
        total = self.config.strategy.rounds
        for number in range(first, total + 1):
            record = self.rounds.play(number)
            self.history.append(record.to_dict())
            self.silent -= {*record.participants, *record.refused}
            self._keep(number)
            self.log(report.round_line(record, total))
            write_json(self.folder.path / "results.json", self.results(None))
        self._serve(self.roster.everyone)
        final = measure(self.rounds, alone=self.config.baselines.alone)
        results = self.results(final)
        if self.config.deployment.epochs:
            write_json(self.folder.path / "results.json", results)
            deployment = deploy(self.rounds, final, alone=self.config.baselines.alone)
            results = self.results(final, deployment)
        write_json(self.folder.path / "results.json", results)
        return results

    # -- joining ---------------------------------------------------------------------------------

    def join(self, found: list[Member], refused: list[RejectedSite]) -> None:
        """Take in the sites that can take part.

        Raises
        ------
        UserError
            Where a site cannot take part and the run is to stop then, or none can.
        """
        for rejected_site in refused:
            if rejected_site.unauthorized:
                self.log(str(rejected_site))
        self._judge([rejected_site for rejected_site in refused if not rejected_site.unauthorized])
        self.roster.clear()
        self.admit(sorted(found, key=lambda member: member.site in self.roster.apart))
        self.log(report.sites_table(self.sites()))
        if not self.roster.members:
            raise UserError("no site can take part")
        check_newcomers(self.roster, self.server_state.partitions)
        if self.roster.newcomers:
            self.log(f"newcomers, after the rounds: {', '.join(sorted(self.roster.newcomers))}")
        for group, each in self.coding().items():
            if any(way["name"] != "exact" for way in each.values()):
                self.log(f"{group} travels coded: {self.server_state.codings.told(group)}")
        self.joined = True
        for key, aggregator in sorted(self.server_state.aggregators.items()):
            name = type(aggregator).__name__
            if isinstance(aggregator, BufferedAggregator):
                self.log(
                    f"{key}: {name} needs all updates of a round: within "
                    f"{aggregator.memory_mb:g} MB of memory, the others on disk"
                )
            statistics = [n for n in self.server_state.states[key] if n.endswith("running_var")]
            if isinstance(aggregator, ServerOptimizer) and statistics:
                self.log(
                    f"{key}: {name} also steps {len(statistics)} BatchNorm variances, which may "
                    "become negative: better put 'type:BatchNorm2d' into groups.personal"
                )

    def admit(self, members: list[Member]) -> None:
        """Take in members: check them against their task, and note who lacks the checkpoint.

        Raises
        ------
        UserError
            In the beginning, where a site does not fit and the run is to stop then.
        """
        fitting, problems = [], []
        for member in members:
            if problem := self._misfit(member):
                problems.append(RejectedSite(member.node_id, member.site, limits.told(problem)))
                self.roster.note_rejected(problems[-1])
                continue
            fitting.append(member)
            self.server_state.downlink.note_known(member.site, member.report.known_states)
            back = self.roster.place(member)
            if self.joined:
                self.log(f"site {member.site} {'is back' if back else 'joined'}")
        if not self.joined:
            self._judge(problems)
        else:
            for rejected_site in problems:
                self.log(str(rejected_site))
        self.unserved |= {m.site for m in fitting if not m.report.holds_weights}
        self.silent -= {m.site for m in fitting}

    def _misfit(self, member: Member) -> str | None:
        """Return why a site does not fit its task, or None; the first that fits defines its task."""
        task, told = member.task, member.report
        reference = self.references.get(task)
        if reference is None:
            return self._begin_task(task, told)
        if told.classes != reference.classes:
            return (
                f"task {task!r} has the classes {', '.join(told.classes)} here, "
                f"but {', '.join(reference.classes)} at {reference.site}: configure data.classes"
            )
        if self.start is not None and told.input_shape != reference.input_shape:
            try:
                self._start(self._partitioned(told))
            except UserError as error:
                return f"task {task!r}: {error}"
        partition = self.server_state.partitions[task]
        return self._other_shapes(told, partition, reference.site) or self._across_tasks(
            task, partition
        )

    def _begin_task(self, task: str, told: SiteReport) -> str | None:
        """Take in a task with its first site, or return why that cannot be."""
        try:
            partitioned = self._partitioned(told)
            start = self._start(partitioned)
        except UserError as error:
            if not self.references:  # it is the configuration that is wrong
                raise
            return f"task {task!r}: {error}"
        partition = partitioned.partition
        for key, names in exchanged(partition, task).items():
            if self._is_of_another_model(key, {name: start[name] for name in names}):
                return f"the checkpoint's group {key!r} is of another model"
        if problem := self._other_shapes(told, partition, "the server"):
            return problem
        if problem := self._across_tasks(task, partition):
            return problem
        self.server_state.add_task(task, partition, start)
        self._claim(self.server_state.keys_of(task).values())
        self._announce(task, partitioned)
        self.references[task] = told
        return None

    def _other_shapes(self, told: SiteReport, partition: Partition, whose: str) -> str | None:
        """Return how the layers that a site shares differ from its task's, which are ``whose``."""
        for group in partition.exchanged_groups():
            if told.fingerprints.get(group) != partition.fingerprint(group):
                mine = described_schema(partition.schema(group))
                return (
                    f"group {group!r} does not fit that of {whose}: "
                    f"{schema_difference(mine, told.schemas.get(group, {}))}"
                )
        return None

    def _across_tasks(self, task: str, partition: Partition) -> str | None:
        """Return how a task's share of a group for all sites differs from the other tasks'."""
        for group in partition.exchanged_groups():
            state = self.server_state.states.get(scope_key(partition, group, task))
            if state is None:
                continue
            mine = described_schema(partition.schema(group))
            shared = described_schema(
                {name: TensorSpec.of(tensor) for name, tensor in state.items()}
            )
            if mine != shared:
                return (
                    f"group {group!r} is for all sites, but task {task!r} needs another shape: "
                    f"{schema_difference(shared, mine)}; put these tensors into task or personal"
                )
        return None

    def _judge(self, rejected: list[RejectedSite]) -> None:
        if not rejected:
            return
        reasons: dict[str, list[str]] = {}
        for rejected_site in rejected:
            who = rejected_site.site or f"node {rejected_site.node_id}"
            reasons.setdefault(rejected_site.reason, []).append(who)
        lines = [f"  {', '.join(sorted(who))}: {reason}" for reason, who in reasons.items()]
        text = "these sites cannot take part:\n" + "\n".join(sorted(lines))
        if self.config.strategy.on_site_error == "stop":
            raise UserError(f"{text}\n(strategy.on_site_error=exclude goes on without them)")
        self.log(text)

    def _partitioned(self, told: SiteReport) -> PartitionedModel:
        partitioned = build_partitioned(
            self.plan, self.method, input_shape=told.input_shape, classes=len(told.classes)
        )
        frozen = partitioned.partition.names(PRETRAINED.name)
        if frozen and self.start is None:
            raise UserError(
                f"groups.pretrained freezes {len(frozen)} tensors, but weights=none leaves them "
                "random: choose weights=central, file or torchvision, or empty the group "
                "('groups.pretrained=[]') and put its layers elsewhere"
            )
        return partitioned

    def _start(self, partitioned: PartitionedModel) -> dict[str, Any]:
        """Return what a task's model starts from.

        Before the pre-training of a `PretrainingJob` that is compared with what will come of it.

        Raises
        ------
        UserError
            Where the pre-trained start does not fit, or lacks what is frozen.
        """
        start = self.checkpoint or self.start
        if start is not None:
            self._check_start(partitioned, start)
        if isinstance(start, Checkpoint):
            partitioned.start_from(start.tensors)
        return partitioned.tensors(list(partitioned.model.state_dict()))

    def _announce(self, task: str, partitioned: PartitionedModel) -> None:
        """Print the partition, once for all tasks that have the same."""
        rows = partitioned.partition.summary()
        plain = [asdict(row) for row in rows]
        if plain not in self.summaries.values():
            self.log(report.partition_table(rows))
            for remark in partitioned.partition.remarks:
                self.log(remark)
        self.summaries[task] = plain

    def _distribute(self, members: list[Member]) -> None:
        """Send the pre-trained checkpoint to sites that lack it: once, checked by its hash there."""
        if not members or self.checkpoint is None:
            return
        array = kinds.payload_array(encode(self.checkpoint.tensors))
        sizes = len(array.data) / report.MEGABYTE
        self.log(f"sending the pre-trained checkpoint ({sizes:.1f} MB) to {len(members)} sites")
        record = RoundRecord(0)
        for member, reply in self.rounds.ask(
            kinds.WEIGHTS,
            members,
            0,
            record,
            self.config.strategy.deadline,
            layers={"pretrained": array},
        ):
            try:
                told = answers.read_site_report(reply)
            except Refused as error:
                record.refused[member.site] = str(error)
                continue
            if told.error or not told.holds_weights:
                record.refused[member.site] = told.error or "did not keep the checkpoint"
                continue
            self.unserved.discard(member.site)
            self.server_state.downlink.note_known(member.site, told.known_states)
        self.silent |= record.late.keys()
        for site, reason in {**record.refused, **record.late, **record.absent}.items():
            self.log(f"site {site} did not take the checkpoint: {reason}")

    def _start_from(self, start: Checkpoint | PretrainingJob) -> None:
        """Take the pre-trained start; the sites that lack it get it before the next round."""
        made = start.run(self.log) if isinstance(start, PretrainingJob) else start
        self.checkpoint = made
        self.plan = replace(self.plan, weights=made.content_hash)
        self.roster.change_plan(self.plan.to_json())
        self.server_state.states.clear()
        for task, told in self.references.items():
            partitioned = self._partitioned(told)
            self.server_state.add_task(task, partitioned.partition, self._start(partitioned))
        self.unserved = set(self.roster.everyone)

    def _serve(self, sites: Collection[str]) -> bool:
        """Send the checkpoint to those of ``sites`` that are there and lack it.

        Returns whether any were asked. Who does not take it is asked again before the next round,
        and so is who refused the last: a cache may have been emptied. Who does not answer is not,
        as long as nothing else is heard of it: waiting for it would cost each round a deadline.
        """
        if self.checkpoint is None:
            return False
        refused = self.history[-1]["refused"].keys() if self.history else set()
        connected = self.roster.connected()
        there = [m for m in self.roster.everyone.values() if m.node_id in connected]
        wanted = (self.unserved | refused) & set(sites)
        asked = [member for member in there if member.site in wanted]
        self._distribute(self._lacking(asked, refused))
        return bool(asked)

    def _check_start(
        self, partitioned: PartitionedModel, start: Checkpoint | PretrainingJob
    ) -> None:
        """Raise UserError where the start does not fit, or lacks what is frozen."""
        frozen = partitioned.partition.names(PRETRAINED.name)
        had = start.shapes.keys() - partitioned.left_alone(start.shapes)
        if missing := [name for name in frozen if name not in had]:
            raise UserError(
                f"groups.pretrained freezes {len(missing)} tensors that the weights "
                f"({start.told}) do not have, or not in this shape: {', '.join(missing[:4])}; "
                "put them into another group"
            )

    def _lacking(self, members: list[Member], refused: Collection[str]) -> list[Member]:
        """Return which of these sites do not have the run's checkpoint on their disk.

        What they say that they hold counts, but of ``refused``: these could not use it in the last round.
        """
        record = RoundRecord(0)
        lacking = []
        deadline = self.config.strategy.deadline
        for member, reply in self.rounds.ask(kinds.QUERY, members, 0, record, deadline, layers={}):
            try:
                told = answers.read_site_report(reply)
            except Refused as error:
                record.refused[member.site] = str(error)
                continue
            if told.error:
                record.refused[member.site] = told.error
            elif told.holds_weights:
                self.unserved.discard(member.site)
            else:
                lacking.append(member)
            if member.site not in refused:
                self.server_state.downlink.note_known(member.site, told.known_states)
        self.silent |= record.late.keys()
        for site, reason in {**record.refused, **record.late, **record.absent}.items():
            self.log(f"site {site} does not say whether it has the checkpoint: {reason}")
        return lacking

    # -- the rounds ------------------------------------------------------------------------------

    def _take_up(self, saved: Saved) -> None:
        """Continue from a checkpoint; it must hold what the model of now exchanges."""
        self.server_state.unclaimed = {
            key: GroupCheckpoint(state, saved.optimizers.get(key, {}), saved.published.get(key, {}))
            for key, state in saved.states.items()
        }
        for key, state in self.server_state.states.items():
            if self._is_of_another_model(key, state):
                raise UserError(f"resume: the checkpoint's group {key!r} is of another model")
        self._claim(list(self.server_state.states))
        self.history[:] = saved.history

    def _is_of_another_model(self, key: str, state: Mapping[str, Tensor]) -> bool:
        kept = self.server_state.unclaimed.get(key)
        before = state if kept is None else kept.state
        return {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in state.items()}

    def _claim(self, keys: Iterable[str]) -> None:
        """Go on from what the checkpoint holds of ``keys``: now that a site is there to learn it."""
        for key in keys:
            self.server_state.claim(key)

    def _keep(self, number: int) -> None:
        kept = self.server_state.keep()
        self.folder.save(
            number,
            {key: each.state for key, each in kept.items()},
            {key: each.optimizer for key, each in kept.items()},
            self.history,
            {key: each.published for key, each in kept.items()},
        )

    def sites(self) -> dict[str, dict[str, Any]]:
        """Return who takes part in the rounds, as results.json says it."""
        wanted = ("task", "classes", "input_shape", "examples", "device", "versions")
        told = {name: asdict(m.report) for name, m in sorted(self.roster.members.items())}
        return {
            name: {
                **{key: site[key] for key in wanted},
                "majority_accuracy": site["majority_accuracy"],
            }
            for name, site in told.items()
        }

    def coding(self) -> dict[str, dict[str, Any]]:
        """Return how each exchanged group travels, up and down, as results.json says it."""
        groups = {g for p in self.server_state.partitions.values() for g in p.exchanged_groups()}
        codings = self.server_state.codings
        return {
            group: {
                "up": codings.from_site(group).to_dict(),
                "down": codings.to_site(group).to_dict(),
            }
            for group in sorted(groups)
        }

    def results(
        self, final: dict[str, Any] | None, deployment: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return what results.json holds; ``final`` and ``deployment`` are null until the end."""
        return {
            "run": self.folder.name,
            "federation": self.folder.federation,
            "config": self.config.to_dict(),
            "versions": report.versions(),
            "seed": self.config.seed,
            "weights": {
                "content_hash": self.checkpoint.content_hash,
                "source": self.checkpoint.told,
            }
            if self.checkpoint
            else None,
            "partition": self.summaries,
            "coding": self.coding(),
            "sites": self.sites(),
            "rounds": self.history,
            "participation": participation(self.history, self.roster.members),
            "final": final,
            "deployment": deployment,
        }
