"""Whether a site fits its task, and taking it in: at the beginning, and while rounds are played."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from fedstrata.protocol import limits
from fedstrata.protocol.answers import SiteReport
from fedstrata.protocol.codec import forms
from fedstrata.protocol.forms import describe_form
from fedstrata.protocol.offered_models import task_of
from fedstrata.protocol.plan import Plan
from fedstrata.protocol.task_kinds import NUMBER
from fedstrata.protocol.tensors import TensorSpec
from fedstrata.support.errors import UserError
from models.groups import PRETRAINED, Partition, exchanged_by_scope, scope_key
from models.weights import Checkpoint
from server_app import tables
from server_app.patience import Log
from server_app.rounds.model_shapes import models_problem
from server_app.rounds.state import ServerState
from server_app.sites.checkpoint_holders import CheckpointHolders
from server_app.sites.members import Member, RejectedSite
from server_app.sites.roster import Roster
from server_app.start_weights import PretrainingJob
from strategies.partitioned_model import PartitionedModel, build_partitioned


@dataclass
class Admission:
    """Takes sites into a run; the first that fits defines its task, and the first of a model that.

    Parameters
    ----------
    roster : Roster
        Where sites are noted.
    state : ServerState
        Where their tasks are added.
    plan : Plan
        What the sites need to know.
    starts : mapping of str to Checkpoint or PretrainingJob
        The pre-trained start of each model that has one, "" being the only network of a run; a job
        before its result is there.
    stop_on_error : bool
        Whether a site that does not fit ends the run, as long as it has not begun.
    log : callable
        Takes text.
    holders : CheckpointHolders
        Where it is noted who has the pre-trained checkpoint.
    references : dict
        By variant, as `variant_of` names a task's model, the report of its first site.
    summaries : dict
        By variant, the rows of its partition as results.json has them.
    begun : bool
        Whether the run has logged the sites of the beginning. The log names who comes later.
    left_out : dict of str to str
        Sites that may not take part any more, and why.
    """

    roster: Roster
    state: ServerState
    plan: Plan
    starts: Mapping[str, Checkpoint | PretrainingJob]
    stop_on_error: bool
    log: Log
    holders: CheckpointHolders = field(default_factory=CheckpointHolders)
    references: dict[str, SiteReport] = field(default_factory=dict)
    summaries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    begun: bool = False
    left_out: dict[str, str] = field(default_factory=dict)

    def begin(self, found: list[Member], rejected: list[RejectedSite]) -> None:
        """Take in the sites of the beginning.

        Raises
        ------
        UserError
            Where a site cannot take part and the run is to stop then, or none can.
        """
        for site in rejected:
            if site.unauthorized or site.later:
                self.log(str(site))
        self._stop_or_exclude([s for s in rejected if not s.unauthorized and not s.later])
        self.roster.clear()
        # Newcomers last: a task must be defined by a site that trains it.
        self.admit(sorted(found, key=lambda member: member.site in self.roster.newcomer_names))

    def admit(self, members: list[Member]) -> None:
        """Take in members: check them against their task, and note who lacks the checkpoint.

        Raises
        ------
        UserError
            In the beginning, where a site does not fit and the run is to stop then.
        """
        fitting: list[Member] = []
        rejected: list[RejectedSite] = []
        for member in members:
            if problem := self._problem(member):
                site = RejectedSite(member.node_id, member.site, limits.one_line(problem))
                rejected.append(site)
                self.roster.note_rejected(site)
                continue
            fitting.append(member)
            self.state.downlink.note_known(member.site, member.report.known_states)
            back = self.roster.place(member)
            if self.begun:
                self.log(f"site {member.site} {'is back' if back else 'joined'}")
        if self.begun:
            for site in rejected:
                self.log(str(site))
        else:
            self._stop_or_exclude(rejected)
        self.holders.joined(
            [m.site for m in fitting], [m.site for m in fitting if not m.report.holds_weights]
        )

    def welcome(self, connected: set[int]) -> list[Member]:
        """Take in the sites that joined or came back since the last look; return who answered."""
        self.roster.forget_asked(connected)
        members, rejected = self.roster.greet()
        for site in rejected:
            self.log(str(site))
        if members:
            self.admit(members)
        return members

    def start_from(self, checkpoints: Mapping[str, Checkpoint], plan: Plan) -> None:
        """Let every model start from its checkpoint, of which the new plan has the hash."""
        self.starts, self.plan = checkpoints, plan
        self.roster.change_plan(plan.to_json())
        self.start_again()
        self.holders.lacking = set(self.roster.everyone)

    def change_scale(self, plan: Plan) -> None:
        """Give all sites the scale on which they agreed, as the plan has it; later ones too."""
        self.plan = plan
        self.roster.change_plan(plan.to_json())
        for variant, report in self.references.items():
            self.references[variant] = _with_scale(report, plan)
        for side in (self.roster.members, self.roster.newcomers):
            for site, member in side.items():
                side[site] = replace(member, report=_with_scale(member.report, plan))

    def start_again(self) -> None:
        """Put every task back to what the run starts from, and its aggregators too."""
        self.state.states.clear()
        self.state.aggregators.clear()
        for variant, report in self.references.items():
            partitioned = self._partitioned(report)
            self.state.add_task(
                variant, partitioned.partition, self._start_tensors(report, partitioned)
            )

    def leave_out(self, sites: Mapping[str, str]) -> None:
        """Go on without some sites, by name with the reason, also when they come back."""
        self.left_out |= sites
        for site in sites:
            for side in (self.roster.members, self.roster.newcomers):
                member = side.pop(site, None)
                if member is not None:
                    self.roster.note_rejected(RejectedSite(member.node_id, site, sites[site]))

    # -- one site --------------------------------------------------------------------------------

    def _problem(self, member: Member) -> str | None:
        """Return why a site does not fit its task, or None; the first that fits defines its task."""
        task, report = member.task, member.report
        if member.site in self.left_out:
            return self.left_out[member.site]
        if problem := model_problem(self.plan, report.model):
            return problem
        first = next((r for v, r in self.references.items() if task_of(v) == task), None)
        if first is not None and (problem := classes_problem(task, report, first)):
            return problem
        reference = self.references.get(member.variant)
        if reference is None:
            return self._begin_variant(member.variant, report)
        if report.model in self.starts and report.input_shape != reference.input_shape:
            try:
                self._start_tensors(report, self._partitioned(report))
            except UserError as error:
                return f"task {task!r}: {error}"
        partition = self.state.partitions[member.variant]
        return layers_problem(report, partition, reference.site) or scopes_problem(
            task, partition, self.state.states
        )

    def _begin_variant(self, variant: str, report: SiteReport) -> str | None:
        """Add a task, or another model of one, with its first site, or return why that cannot be."""
        task = report.task
        try:
            partitioned = self._partitioned(report)
            start = self._start_tensors(report, partitioned)
        except UserError as error:
            if not self.references:  # it is the configuration that is wrong
                raise
            return f"task {task!r}{_with_model(report.model)}: {error}"
        partition = partitioned.partition
        for key, names in exchanged_by_scope(partition, task).items():
            if not self.state.fits(key, {name: start[name] for name in names}):
                return f"the checkpoint's group {key!r} is of another model"
        problem = layers_problem(report, partition, "the server") or self._unlike(report, partition)
        if problem:
            return problem
        self.state.add_task(variant, partition, start)
        for key in self.state.scope_keys(variant).values():
            self.state.load(key)
        self._announce(variant, partitioned)
        self.references[variant] = report
        return None

    def _unlike(self, report: SiteReport, partition: Partition) -> str | None:
        """Return how what a new model exchanges differs from what is exchanged already, or None."""
        if not report.model:
            return scopes_problem(report.task, partition, self.state.states)
        for group, mine, shared in _unlike_scopes(report.task, partition, self.state.states):
            return models_problem(report.model, group, mine, shared)
        return None

    def _partitioned(self, report: SiteReport) -> PartitionedModel:
        """Build the model of a site's task; raise UserError where it freezes random tensors."""
        partitioned = build_partitioned(
            self.plan.of_model(report.model),
            self.state.method,
            input_shape=report.input_shape,
            classes=len(report.classes),
        )
        frozen = partitioned.partition.names(PRETRAINED.name)
        if frozen and report.model not in self.starts:
            raise UserError(
                f"groups.pretrained freezes {len(frozen)} tensors, but weights=none leaves them "
                "random: choose weights=central, file or torchvision, or empty the group "
                "('groups.pretrained=[]') and put its layers elsewhere"
            )
        return partitioned

    def _start_tensors(
        self, report: SiteReport, partitioned: PartitionedModel
    ) -> dict[str, Tensor]:
        """Return what the model of a site starts from.

        Before a pre-training job has run, the model is compared with what will come of it.

        Raises
        ------
        UserError
            Where the pre-trained start does not fit, or lacks what is frozen.
        """
        start = self.starts.get(report.model)
        if start is not None:
            check_start(partitioned, start)
        if isinstance(start, Checkpoint):
            partitioned.load_pretrained(start.tensors)
        return partitioned.tensors(list(partitioned.model.state_dict()))

    def _announce(self, variant: str, partitioned: PartitionedModel) -> None:
        """Log the partition, once for all variants that have the same."""
        rows = partitioned.partition.summary()
        plain = [asdict(row) for row in rows]
        if plain not in self.summaries.values():
            if variant != task_of(variant):
                self.log(f"model {variant.removeprefix(task_of(variant))[1:]}:")
            self.log(tables.partition_table(rows))
            for remark in partitioned.partition.remarks:
                self.log(remark)
        self.summaries[variant] = plain

    def _stop_or_exclude(self, rejected: list[RejectedSite]) -> None:
        if not rejected:
            return
        text = rejections(rejected)
        if self.stop_on_error:
            raise UserError(f"{text}\n(strategy.on_site_error=exclude goes on without them)")
        self.log(text)


def rejections(rejected: Iterable[RejectedSite]) -> str:
    """Return which sites cannot take part and why, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for site in rejected:
        reasons.setdefault(site.reason, []).append(site.site or f"node {site.node_id}")
    lines = [f"  {', '.join(sorted(names))}: {reason}" for reason, names in reasons.items()]
    return "these sites cannot take part:\n" + "\n".join(sorted(lines))


def model_problem(plan: Plan, model: str) -> str | None:
    """Return why a site cannot have the model that it says it has, or None; "" is the only one."""
    if model == "" if not plan.models else model in plan.models:
        return None
    offered = ", ".join(sorted(plan.models)) or "one network for all sites"
    return f"the site has {f'the model {model!r}' if model else 'no model'}, and the run offers {offered}"


def _with_model(model: str) -> str:
    return f", model {model!r}" if model else ""


def classes_problem(task: str, report: SiteReport, reference: SiteReport) -> str | None:
    """Return how what a site predicts differs from its task's first site, or None."""
    if problem := _kind_problem(task, report, reference):
        return problem
    if report.classes == reference.classes:
        return None
    what = report.kind.name if report.kind.name != NUMBER else "numbers"
    return (
        f"task {task!r} has the {what} {', '.join(report.classes)} here, "
        f"but {', '.join(reference.classes)} at {reference.site}: configure data.classes"
    )


def _kind_problem(task: str, report: SiteReport, reference: SiteReport) -> str | None:
    """Return how the kind of a site's task differs from the first site's, or None."""
    mine, first = report.kind, reference.kind
    if mine.name != first.name:
        return (
            f"task {task!r} is of {mine.name} here, but of {first.name} at {reference.site}: write "
            f"data.tasks.{task}.kind"
        )
    for name in ("loss", "unit", "mean", "std"):
        here, there = getattr(mine, name), getattr(first, name)
        if here != there:
            return (
                f"task {task!r} has the {name} {_shown(here)} here, but {_shown(there)} at "
                f"{reference.site}: write data.tasks.{task}.{name}, the same for all sites"
            )
    return None


class ClosedAdmission(Admission):
    """Takes in nobody: what is asked for now changes the plan, and all are asked again with it."""

    def welcome(self, connected: set[int]) -> list[Member]:
        """Return nobody."""
        del connected
        return []


def _with_scale(report: SiteReport, plan: Plan) -> SiteReport:
    """Return a report made before the scale was agreed as the site would make it now."""
    agreed = (plan.agreed or {}).get("targets", {}).get(report.task)
    if agreed is None or report.kind.name != NUMBER or report.kind.mean:
        return report
    kind = replace(report.kind, mean=tuple(agreed["mean"]), std=tuple(agreed["std"]))
    return replace(report, kind=kind)


def _shown(value: str | tuple[float, ...]) -> str:
    return repr(value) if isinstance(value, str) else f"[{', '.join(f'{v:g}' for v in value[:6])}]"


def layers_problem(report: SiteReport, partition: Partition, whose: str) -> str | None:
    """Return how the layers that a site shares differ from its task's, or None.

    Parameters
    ----------
    report : SiteReport
        What the site says of its layers.
    partition : Partition
        Of the task.
    whose : str
        Where the task's partition is from, for the text.
    """
    for group in partition.exchanged_groups():
        if report.fingerprints.get(group) != partition.fingerprint(group):
            mine = described_schema(partition.schema(group))
            return (
                f"group {group!r} does not fit that of {whose}: "
                f"{schema_difference(mine, report.schemas.get(group, {}))}"
            )
    return None


def scopes_problem(
    task: str, partition: Partition, states: Mapping[str, Mapping[str, Tensor]]
) -> str | None:
    """Return how a task's part of a group for all sites differs from the other tasks', or None."""
    for group, mine, shared in _unlike_scopes(task, partition, states):
        return (
            f"group {group!r} is for all sites, but task {task!r} needs another shape: "
            f"{schema_difference(shared, mine)}; put these tensors into task or personal"
        )
    return None


def _unlike_scopes(
    task: str, partition: Partition, states: Mapping[str, Mapping[str, Tensor]]
) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """Yield the groups of which a scope has other tensors already: the new ones, and those."""
    for group in partition.exchanged_groups():
        state = states.get(scope_key(partition, group, task))
        if state is None:
            continue
        mine = described_schema(partition.schema(group))
        shared = described_schema({name: TensorSpec.of(tensor) for name, tensor in state.items()})
        if mine != shared:
            yield group, mine, shared


def check_start(partitioned: PartitionedModel, start: Checkpoint | PretrainingJob) -> None:
    """Raise UserError where the pre-trained start does not fit, or lacks what is frozen."""
    frozen = partitioned.partition.names(PRETRAINED.name)
    had = start.shapes.keys() - partitioned.not_loaded(start.shapes)
    if missing := [name for name in frozen if name not in had]:
        raise UserError(
            f"groups.pretrained freezes {len(missing)} tensors that the weights "
            f"({start.source}) do not have, or not in this shape: {', '.join(missing[:4])}; "
            "put them into another group"
        )


def described_schema(schema: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return dtype and shape by tensor name, as text."""
    return {name: describe_form(form) for name, form in forms(schema).items()}


def schema_difference(mine: dict[str, str], theirs: dict[str, str], most: int = 3) -> str:
    """Name the first tensors that differ between two schemas, as `described_schema` gives them."""
    lines = []
    for name in sorted(mine.keys() | theirs.keys()):
        ours, other = mine.get(name, "missing"), theirs.get(name, "missing")
        if ours != other:
            lines.append(f"{name[:80]} is {other[:60]} here and {ours} there")
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
