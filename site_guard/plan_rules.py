"""The hospital's rules for what a run may plan: judged on every order, before the app sees it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

import msgspec
from flwr.app import ConfigRecord, Message

from fedstrata.protocol import kinds, limits
from fedstrata.protocol.answers import RoundReport, SiteReport
from fedstrata.protocol.categories import open_columns
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.plan import OF_UPDATES, Plan, plan_from_json
from fedstrata.support.errors import UserError

# All but the perceptrons and the linear model: their first layer is linear in the raw values of an
# example, and the update of such a layer holds the examples themselves
# (tests/attacks/test_imprint.py). Nor fedavg_cnn: its layer sees every place of the image, after two
# convolutions whose weights the server chooses.
MODELS = (
    "resnet4",
    "resnet6",
    "resnet8",
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "small_cnn",
    "text_encoder",
)
MOST_PLAN = 100_000  # characters; a plan has some 2,000
MOST_NAMED = 3  # tensors that a refusal names


class PlanRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What the plan of a run may ask of this site.

    Parameters
    ----------
    models : tuple of str
        Names of networks that may be trained here, or globs.
    sums : bool
        Whether a run may ask, once, for sums over the columns of the training rows, from which all
        sites get one scale (``data.standardize=agreed``).
    categories : tuple of str
        Columns, or globs, of which a run may ask, once, for the names of all categories
        (``data.categories={column: agreed}``). None by default: they are values of the data.
    cross_site : bool
        Whether this site takes part in a cross-site table (``cross_site=updates``): its layers,
        trained once more, go to the other sites of its task, and theirs are measured here.
    groups : mapping of str to tuple of str, or None
        By layer group, names or globs of the only tensors that may be exchanged in it; a name is
        the whole tensor's or a module's above it. None for any that ``share`` and ``keep`` allow.
    min_batch_size, min_steps, min_examples : int
        Of a round: the smallest batch, and the fewest optimizer steps and training examples.
    max_learning_rate : float
        The largest learning rate, before any schedule.
    max_rounds_per_day, max_orders_per_day : int
        Of all runs, from midnight to midnight in the machine's local time: orders that train and
        send layers, and orders of any kind.
    checkpoint_before_approval : bool
        With ``approve: ask``, whether a run that waits may say who it is and leave its pre-trained
        checkpoint. Nothing is trained or measured then.
    """

    models: tuple[str, ...] = MODELS
    sums: bool = False
    categories: tuple[str, ...] = ()
    cross_site: bool = False
    groups: dict[str, tuple[str, ...]] | None = None
    min_batch_size: int = 8
    min_steps: int = 2
    min_examples: int = 20
    max_learning_rate: float = 1.0
    max_rounds_per_day: int = 500
    max_orders_per_day: int = 2000
    checkpoint_before_approval: bool = False

    def check_plan(self, plan: Plan) -> None:
        """Raise Refused for a plan, with this site's own network, that it does not accept."""
        model = str(plan.model.get("name"))
        if not any(fnmatchcase(model, pattern) for pattern in self.models):
            raise _refusal("models", f"the plan trains {_short(model)}", ", ".join(self.models))
        if (plan.wants_sums or plan.agreed is not None) and not self.sums:
            raise _refusal(
                "sums", "the run asks for sums over the columns (data.standardize=agreed)", "false"
            )
        self._check_categories(plan)
        train = plan.train
        if train.batch_size < self.min_batch_size:
            raise _refusal(
                "min-batch-size", f"the plan has batches of {train.batch_size}", self.min_batch_size
            )
        if train.steps is not None and train.steps < self.min_steps:
            raise _refusal("min-steps", f"a round has {train.steps} steps", self.min_steps)
        if train.steps is not None and train.steps * train.batch_size < self.min_examples:
            raise _refusal(
                "min-examples",
                f"a round has {train.steps * train.batch_size} examples",
                self.min_examples,
            )
        tuned = plan.tuning.lr_factor if plan.tuning.epochs else 1.0
        rate = train.optimizer.lr * max(1.0, tuned)
        if not rate <= self.max_learning_rate:
            raise _refusal(
                "max-learning-rate", f"the plan's learning rate is {rate:g}", self.max_learning_rate
            )

    def _check_categories(self, plan: Plan) -> None:
        others = [
            column
            for column in open_columns(plan.data)
            if not any(fnmatchcase(column, pattern) for pattern in self.categories)
        ]
        if others:
            raise _refusal(
                "categories",
                "the run asks for the names of the categories in the column "
                f"{', '.join(map(_short, others[:MOST_NAMED]))} (data.categories: agreed)",
                ", ".join(self.categories) or "none",
            )

    def check_crossing(self, plan: Plan, kind: str, of: str) -> None:
        """Raise Refused for an order of a cross-site table that the plan or this site does not allow.

        Parameters
        ----------
        plan : Plan
            The order's.
        kind : str
            The order's.
        of : str
            Whose layers it measures, or "" where they are the run's.
        """
        if kind != kinds.CROSS and not of:
            return
        if plan.cross_site != OF_UPDATES:
            raise Refused(
                "the order is of a cross-site table, and its plan has none of updates: of another "
                "site's whole model nothing is measured here, its personal layers never leave it"
            )
        if not self.cross_site:
            raise _refusal(
                "cross-site",
                "the order is of a cross-site table, for which a site's own layers go to other sites",
                "false",
            )

    def check_tensors(self, group: str, names: Collection[str]) -> None:
        """Raise Refused for tensors that may not be exchanged in a group."""
        if self.groups is None:
            return
        allowed = self.groups.get(group, ())
        if others := sorted(name for name in names if not matches(name, allowed)):
            named = ", ".join(map(_short, others[:MOST_NAMED]))
            more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
            raise _refusal(
                f"groups: {{{group}: ...}}",
                f"the run exchanges {named}{more} in {_short(group)}",
                ", ".join(allowed) or "nothing",
            )

    def check_examples(self, plan: Plan, examples: int) -> None:
        """Raise Refused where a round over so many training examples would be too small.

        The text has no count: the server chooses the settings that leave out examples.
        """
        train = plan.train
        if examples < self.min_examples:
            raise _refusal(
                "min-examples",
                "the run's data settings leave fewer training examples",
                self.min_examples,
            )
        batches = -(-examples // train.batch_size)
        if train.epochs is not None and train.epochs * batches < self.min_steps:
            raise _refusal("min-steps", "a round has fewer steps here", self.min_steps)

    def check_report(self, plan: Plan, report: RoundReport) -> None:
        """Raise Refused for the update of a round that trained less than it must."""
        seen = min(report.examples, report.steps * plan.train.batch_size)
        if report.steps < self.min_steps:
            raise _refusal("min-steps", "the round had fewer steps", self.min_steps)
        if seen < self.min_examples:
            raise _refusal("min-examples", "the round had fewer examples", self.min_examples)

    def check_site_report(self, plan: Plan, report: SiteReport) -> None:
        """Raise Refused where the announced layers or examples are not accepted."""
        for group, schema in report.schemas.items():
            self.check_tensors(group, schema)
        self.check_examples(plan, report.examples.get("train", 0))

    def check(self, where: str) -> None:
        """Raise UserError for rules that make no sense; ``where`` is the file."""
        for entry in ("min_batch_size", "min_steps", "min_examples"):
            if getattr(self, entry) < 1:
                raise UserError(f"{where}: plan: {_kebab(entry)} must be at least 1")
        for entry in ("max_rounds_per_day", "max_orders_per_day"):
            if getattr(self, entry) < 1:
                raise UserError(
                    f"{where}: plan: {_kebab(entry)} must be at least 1; to let nothing leave, "
                    "write share: []"
                )
        if not self.max_learning_rate > 0:
            raise UserError(f"{where}: plan: max-learning-rate must be above 0")
        if not self.models:
            raise UserError(
                f"{where}: plan: models is empty, so no run could train: name networks, as in "
                "[resnet18], or leave the entry out"
            )


def read_plan(message: Message) -> tuple[str, Plan]:
    """Return the plan of an order, as JSON and read; raise Refused where it cannot be read."""
    record = message.content.get(kinds.PLAN)
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str) or len(text) > MOST_PLAN:
        raise Refused("the order has no plan that can be read")
    try:
        plan = plan_from_json(text)
    except UserError as error:
        raise Refused(f"the order's plan cannot be read: {error}") from None
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Refused(f"the order's plan cannot be read: {type(error).__name__}") from None
    if not limits.NAME.fullmatch(plan.federation):
        raise Refused("the plan's federation is no name")
    return text, plan


def matches(tensor: str, entries: Collection[str]) -> bool:
    """Whether a tensor, or a module above it, has one of the names or fits one of the globs."""
    parts = tensor.split(".")
    paths = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(path == entry or fnmatchcase(path, entry) for path in paths for entry in entries)


def known_entries(rules: PlanRules | None = None) -> Mapping[str, object]:
    """Return the entries of ``plan`` in site.yaml with the values of ``rules``, or their defaults."""
    given = rules or PlanRules()
    return {_kebab(name): getattr(given, name) for name in PlanRules.__struct_fields__}


def _refusal(entry: str, what: str, allowed: object) -> Refused:
    return Refused(f"{what}, and this site's rule is `plan: {entry}`: {allowed}")


def _short(text: str) -> str:
    return repr(limits.printable(text)[:80])


def _kebab(name: str) -> str:
    return name.replace("_", "-")
