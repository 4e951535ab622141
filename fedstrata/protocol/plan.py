"""The plan: what the server sends to every site of a run, and the settings in it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from fedstrata.protocol.categories import check_columns, open_columns
from fedstrata.protocol.codings import EXACT, Codings, read_codings
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.offered_models import MODELS, check_models
from fedstrata.protocol.sums import are_wanted
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options

AGREED_LATER = ("agreed", "categories")  # fields that follow from what sites send
OF_SEVERAL = ("models", "own", "starts")  # fields of a run that offers several networks
NO_TABLE, OF_MODELS, OF_UPDATES = "none", "models", "updates"  # what a cross-site table is of
MOST_IN_COHORT = 10_000  # sites on one node


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer: ``sgd``, ``adam`` or ``adamw``; ``momentum`` is for ``sgd``."""

    name: str
    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class FitConfig:
    """What one fit needs to know: how long, in which batches, with which steps.

    Parameters
    ----------
    epochs, steps : int or None
        Exactly one is given: passes over the split, or batches.
    batch_size : int
        Examples in a batch. The last batch of a pass may be smaller, but it is never a single
        example where there are others: BatchNorm has no variance of one.
    optimizer : OptimizerConfig
        Its ``lr`` is the one before any schedule.
    clip : float or None
        Largest norm of the gradient.
    augment : str
        ``none``, ``flip`` or ``flip_crop``.
    """

    epochs: int | None
    steps: int | None
    batch_size: int
    optimizer: OptimizerConfig
    clip: float | None
    augment: str


@dataclass(frozen=True)
class TrainConfig(FitConfig):
    """How a site trains in one round; see conf/train/default.yaml."""

    schedule: str
    class_weights: str
    cache_features: bool
    feature_dtype: str
    precision: str
    threads: int | None
    compile: bool
    evaluation_batch_size: int

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        if (self.epochs is None) == (self.steps is None):
            raise UserError(
                "train: give either train.epochs or train.steps, and null for the other"
            )
        sizes = ("batch_size", "evaluation_batch_size")
        positive("train", self, *sizes, "epochs", "steps", "clip", "threads")
        positive("train.optimizer", self.optimizer, "lr")
        for name in ("momentum", "weight_decay"):
            value = getattr(self.optimizer, name)
            if not value >= 0:
                raise UserError(f"train.optimizer.{name} must be 0 or greater, got {value}")
        one_of("train.optimizer.name", self.optimizer.name, ("sgd", "adam", "adamw"))
        one_of("train.schedule", self.schedule, ("constant", "cosine"))
        one_of("train.class_weights", self.class_weights, ("none", "balanced"))
        one_of("train.augment", self.augment, ("none", "flip", "flip_crop"))
        one_of("train.feature_dtype", self.feature_dtype, ("float16", "float32"))
        one_of("train.precision", self.precision, ("auto", "float32", "bfloat16"))


@dataclass(frozen=True)
class CohortConfig:
    """How many sites of a simulation are on each node; see conf/config.yaml."""

    sites: int
    batched: bool

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        if not 1 <= self.sites <= MOST_IN_COHORT:
            raise UserError(
                f"cohort.sites must be a number of sites from 1 to {MOST_IN_COHORT} for each "
                f"SuperNode, got {self.sites}"
            )


def check_cohorts(cohort: CohortConfig, codings: Codings) -> None:
    """Raise UserError if nodes send sums over several sites, which travel exactly, and a coding."""
    for key, chosen in (("coding", codings.up), ("coding_down", codings.down)):
        for group, coding in chosen.items():
            if cohort.sites > 1 and coding != EXACT:
                raise UserError(
                    f"strategy.{key}.{group}={coding.name}: with cohort.sites above 1 a node sends "
                    f"the sum over its sites, which travels exactly: write strategy.{key}.{group}="
                    "exact, or cohort.sites=1 with a SuperNode for each site"
                )


@dataclass(frozen=True)
class Tuning:
    """What each site fine-tunes after the last round; see conf/config.yaml."""

    epochs: int
    groups: tuple[str, ...] | None  # None: those that are nearest to the site, see `tuned_groups`
    lr_factor: float

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        if self.epochs < 0:
            raise UserError(
                f"deployment.epochs must be 0 (no fine-tuning) or greater, got {self.epochs}"
            )
        positive("deployment", self, "lr_factor")
        if self.epochs and self.groups == ():
            raise UserError(
                "deployment.groups is empty: name the layer groups to fine-tune, such as "
                "[personal], or set deployment.epochs=0"
            )


@dataclass(frozen=True)
class Plan:
    """What a site needs to take part in a run; nothing that a site decides itself.

    Parameters
    ----------
    federation : str
        Name of the run, under which a site keeps its local state.
    seed : int
        The run's seed.
    rounds : int
        How many rounds are planned, for schedules; 0 where a run of before is measured.
    fraction : float
        Share of the sites that is asked in each round; with ``rounds`` it says how long a site
        trains alone.
    coding, coding_down : dict
        By group, how layers travel from the sites and to them.
    model, data, groups, method : dict
        As the configuration has them.
    weights : str
        Content hash of the pre-trained checkpoint that the run starts from, or "".
    train : TrainConfig
        How a site trains in one round.
    tuning : Tuning
        What each site fine-tunes after the last round.
    cohort : CohortConfig
        How many sites of a simulation are on each node.
    agreed : dict or None
        The scale that follows from the sums of all sites, where the run asked for them.
    categories : dict or None
        By column, the categories of all sites, where the run asked for them.
    cross_site : str
        What is measured at the other sites after the rounds: ``none``, ``models`` or ``updates``.
    models : dict
        The networks that the run offers its sites, by name; empty where ``model`` is that of all.
    own : str
        Which of ``models`` a site has: only in the plan that a site works by, see `of_model`.
    starts : dict
        As ``weights``, by model.
    """

    federation: str
    seed: int
    rounds: int
    fraction: float
    coding: dict[str, Any]
    coding_down: dict[str, Any]
    model: dict[str, Any]
    weights: str
    data: dict[str, Any]
    groups: dict[str, Any]
    method: dict[str, Any]
    train: TrainConfig
    tuning: Tuning
    cohort: CohortConfig
    agreed: dict[str, Any] | None = None
    categories: dict[str, list[str]] | None = None
    cross_site: str = NO_TABLE
    models: dict[str, Any] = field(default_factory=dict)
    own: str = ""
    starts: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the plan as JSON, without what a run does not have, such as a scale or a table."""
        record = asdict(self)
        for name in AGREED_LATER:
            if record[name] is None:
                del record[name]
        if self.cross_site == NO_TABLE:
            del record["cross_site"]
        for name in OF_SEVERAL:
            if not record[name]:
                del record[name]
        return json.dumps(record, sort_keys=True)

    @property
    def data_options(self) -> dict[str, Any]:
        """``data`` with the agreed scale and categories, as a site loads its data."""
        data = {key: value for key, value in self.data.items() if key != MODELS}
        if self.agreed is not None:
            data["constants"] = self.agreed
        if self.categories is None:
            return data
        return {**data, "categories": {**data["categories"], **self.categories}}

    @property
    def wants_sums(self) -> bool:
        """Whether the sites' sums are asked for before anything is trained."""
        return are_wanted(self.data, self.agreed)

    @property
    def wants_categories(self) -> bool:
        """Whether the sites' categories are asked for before they join."""
        return self.categories is None and bool(open_columns(self.data))

    @cached_property
    def codings(self) -> Codings:
        """Return how each group travels."""
        return read_codings(self.coding, self.coding_down, self.rounds)

    def of_model(self, name: str) -> Plan:
        """Return the plan as a site works by it that has the offered model ``name``.

        With "", of a run with one network, it is the same.
        """
        if not name:
            return self
        start = self.starts.get(name, self.weights)
        return replace(self, model=self.models[name], own=name, weights=start)

    def rounds_played(self, played: int) -> int:
        """Return how many rounds a run had: those that were ``played``, or with 0 all of the plan."""
        return min(played, self.rounds) or self.rounds

    def rounds_of_a_site(self, played: int = 0) -> list[int]:
        """Return rounds in which an average site trains, counted from 1 and evenly spaced.

        ``played`` is as in `rounds_played`: a run may stop before its last round.
        """
        last = self.rounds_played(played)
        shares = [math.floor(number * self.fraction) for number in range(last + 1)]
        trained = [r for r in range(1, last + 1) if shares[r] > shares[r - 1]]
        return trained or [1]  # with few rounds a site may be asked in none


@lru_cache(maxsize=4)
def plan_from_json(text: str) -> Plan:
    """Read a plan that arrived over the wire; raise UserError if it cannot be read.

    Every message of a run carries the same plan, and reading it takes longer than a small round.
    So the last few are kept.
    """
    try:
        loaded = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"the plan is not JSON: {error}") from None
    if isinstance(loaded, dict):
        one = {"models": {}, "own": "", "starts": {}}
        loaded = {**dict.fromkeys(AGREED_LATER), "cross_site": NO_TABLE, **one, **loaded}
    plan = read_options(Plan, loaded, "plan")
    if plan.rounds < 0 or not 0 < plan.fraction <= 1:
        raise UserError(
            f"the plan has {plan.rounds} rounds of a share of {plan.fraction} of the sites"
        )
    one_of("cross_site", plan.cross_site, (NO_TABLE, OF_MODELS, OF_UPDATES))
    plan.train.check()
    plan.tuning.check()
    plan.cohort.check()
    check_cohorts(plan.cohort, plan.codings)
    _check_categories(plan)
    check_models(plan.models)
    if {plan.own, *plan.starts} - {"", *plan.models}:
        raise UserError(
            "the plan has starts, or a site's own model, of models that it does not offer"
        )
    return plan


def _check_categories(plan: Plan) -> None:
    """Raise UserError for agreed categories that `united` does not make, or of other columns."""
    if plan.categories is None:
        return
    if not plan.categories or tuple(sorted(plan.categories)) != open_columns(plan.data):
        raise UserError("the plan has categories of other columns than those with `agreed`")
    try:
        check_columns(plan.categories)
    except Refused as error:
        raise UserError(f"the plan's categories: {error}") from None


def positive(where: str, config: object, *names: str) -> None:
    """Raise UserError if a named setting of ``config`` is given and not above 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise UserError(f"{where}.{name} must be greater than 0, got {value}")


def one_of(where: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UserError if ``value`` is none of ``choices``."""
    if value not in choices:
        raise UserError(f"{where} must be one of {', '.join(choices)}, got {value!r}")
