"""The configuration of a run, typed; every value stands in a YAML file of conf/, none here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

from fedstrata.protocol.codings import EXACT, Codings, read_codings
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options
from models.optimizer import OptimizerConfig

MOST_IN_COHORT = 10_000  # sites that one node holds


@dataclass(frozen=True)
class TrainConfig:
    """How a site trains in one round; see conf/train/default.yaml."""

    epochs: int | None
    steps: int | None
    batch_size: int
    optimizer: OptimizerConfig
    schedule: str
    clip: float | None
    class_weights: str
    augment: str
    cache_features: bool
    feature_dtype: str
    precision: str
    compile: bool
    evaluation_batch_size: int

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        if (self.epochs is None) == (self.steps is None):
            raise UserError(
                "train: give either train.epochs or train.steps, and null for the other"
            )
        _positive("train", self, "batch_size", "evaluation_batch_size", "epochs", "steps", "clip")
        _positive("train.optimizer", self.optimizer, "lr")
        for name in ("momentum", "weight_decay"):
            value = getattr(self.optimizer, name)
            if not value >= 0:
                raise UserError(f"train.optimizer.{name} must be 0 or greater, got {value}")
        _one_of("train.optimizer.name", self.optimizer.name, ("sgd", "adam", "adamw"))
        _one_of("train.schedule", self.schedule, ("constant", "cosine"))
        _one_of("train.class_weights", self.class_weights, ("none", "balanced"))
        _one_of("train.augment", self.augment, ("none", "flip", "flip_crop"))
        _one_of("train.feature_dtype", self.feature_dtype, ("float16", "float32"))
        _one_of("train.precision", self.precision, ("auto", "float32", "bfloat16"))


@dataclass(frozen=True)
class StrategyConfig:
    """The rounds; see conf/strategy/default.yaml."""

    rounds: int
    fraction: float
    min_sites: int
    join_timeout: float
    give_up: float
    deadline: float
    minimum: dict[str, int]
    on_site_error: str
    poll: float
    final_timeout: float
    aggregators: dict[str, Any]
    coding: dict[str, Any]
    coding_down: dict[str, Any]

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        names = ("rounds", "fraction", "min_sites", "deadline", "poll")
        _positive("strategy", self, *names, "join_timeout", "give_up", "final_timeout")
        if self.fraction > 1:
            raise UserError(
                f"strategy.fraction is a share of the sites, at most 1: {self.fraction}"
            )
        for group, least in self.minimum.items():
            if least < 0:
                raise UserError(f"strategy.minimum.{group} must be 0 or greater, got {least}")
        _one_of("strategy.on_site_error", self.on_site_error, ("stop", "exclude"))
        read_codings(self.coding, self.coding_down)

    @cached_property
    def codings(self) -> Codings:
        """Return how each group travels."""
        return read_codings(self.coding, self.coding_down)


@dataclass(frozen=True)
class CohortConfig:
    """How many sites of a simulation each node holds; see conf/config.yaml."""

    sites: int
    together: bool

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        if not 1 <= self.sites <= MOST_IN_COHORT:
            raise UserError(
                f"cohort.sites must be a number of sites from 1 to {MOST_IN_COHORT} for each "
                f"SuperNode, got {self.sites}"
            )


def check_regions(cohort: CohortConfig, codings: Codings) -> None:
    """Raise UserError where nodes send sums over several sites, which travel exactly, and coded."""
    for way, chosen in (("coding", codings.up), ("coding_down", codings.down)):
        for group, coding in chosen.items():
            if cohort.sites > 1 and coding != EXACT:
                raise UserError(
                    f"strategy.{way}.{group}={coding.name}: with cohort.sites above 1 a node sends "
                    f"the sum over its sites, which travels exactly: write strategy.{way}.{group}="
                    "exact, or cohort.sites=1 with a SuperNode for each site"
                )


@dataclass(frozen=True)
class BaselinesConfig:
    """What is trained besides the federation, to compare with."""

    alone: bool


@dataclass(frozen=True)
class Tuning:
    """What every site fine-tunes by itself after the last round; see conf/config.yaml."""

    epochs: int
    groups: tuple[str, ...]
    lr_factor: float

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        if self.epochs < 0:
            raise UserError(
                f"deployment.epochs must be 0 (no fine-tuning) or greater, got {self.epochs}"
            )
        _positive("deployment", self, "lr_factor")
        if self.epochs and not self.groups:
            raise UserError(
                "deployment.groups is empty: name the layer groups to fine-tune, such as "
                "[personal], or set deployment.epochs=0"
            )


@dataclass(frozen=True)
class DeploymentConfig(Tuning):
    """The fine-tuning, and the sites that join after the rounds; see conf/config.yaml."""

    newcomers: tuple[str, ...]

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        super().check()
        if self.newcomers and not self.epochs:
            raise UserError(
                f"deployment.newcomers names {', '.join(self.newcomers)}, but "
                "deployment.epochs=0 leaves out what newcomers join for: set deployment.epochs"
            )
        if len(set(self.newcomers)) < len(self.newcomers):
            raise UserError(f"deployment.newcomers names a site twice: {', '.join(self.newcomers)}")

    @property
    def tuning(self) -> Tuning:
        """Return the part that the sites are told."""
        return Tuning(self.epochs, self.groups, self.lr_factor)


@dataclass(frozen=True)
class Config:
    """One run, whole. ``model``, ``weights``, ``data`` and ``method`` are checked by who reads them."""

    seed: int
    model: dict[str, Any]
    weights: dict[str, Any]
    data: dict[str, Any]
    groups: dict[str, Any]
    method: dict[str, Any]
    train: TrainConfig
    strategy: StrategyConfig
    baselines: BaselinesConfig
    deployment: DeploymentConfig
    cohort: CohortConfig

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        _finite("", self.to_dict())
        self.train.check()
        self.strategy.check()
        self.deployment.check()
        self.cohort.check()
        check_regions(self.cohort, self.strategy.codings)
        for part in ("model", "data", "method"):
            if not isinstance(getattr(self, part).get("name"), str):
                raise UserError(f"{part}.name must say which {part} to use")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as written to results.json and to checkpoints."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What a site is told: everything it needs to take its part, nothing it decides itself.

    ``weights`` is the content hash of the pre-trained checkpoint that the run starts from, or "".
    ``rounds`` is the number of rounds planned, for schedules, and ``fraction`` the share of the sites
    asked in each; both say how much a site trains alone. ``tuning`` is told to all; the names of
    newcomers are not. ``cohort`` says how many sites a node of a simulation holds, ``coding`` and
    ``coding_down`` by group how layers travel.
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

    def to_json(self) -> str:
        """Return the plan as it travels."""
        return json.dumps(asdict(self), sort_keys=True)

    @cached_property
    def codings(self) -> Codings:
        """Return how each group travels."""
        return read_codings(self.coding, self.coding_down)

    def rounds_of_a_site(self) -> list[int]:
        """Return the rounds, counted from 1, in which an average site trains: evenly spaced."""
        shares = [math.floor(number * self.fraction) for number in range(self.rounds + 1)]
        trained = [r for r in range(1, self.rounds + 1) if shares[r] > shares[r - 1]]
        return trained or [1]


def plan_for(config: Config, *, federation: str, weights: str) -> Plan:
    """Return what the sites of ``config`` are told."""
    shared = {f.name for f in fields(Plan)} & {f.name for f in fields(Config)}
    return Plan(
        federation=federation,
        rounds=config.strategy.rounds,
        fraction=config.strategy.fraction,
        coding=config.strategy.coding,
        coding_down=config.strategy.coding_down,
        **{name: getattr(config, name) for name in shared if name != "weights"},
        weights=weights,
        tuning=config.deployment.tuning,
    )


@lru_cache(maxsize=4)
def plan_from_json(text: str) -> Plan:
    """Read a plan that arrived over the wire; raise UserError where it is not one.

    Every message of a run carries the same plan, and reading one takes longer than a small round:
    the last few are kept.
    """
    try:
        loaded = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"the plan is not JSON: {error}") from None
    plan = read_options(Plan, loaded, "plan")
    if plan.rounds < 1 or not 0 < plan.fraction <= 1:
        raise UserError(
            f"the plan has {plan.rounds} rounds of a share of {plan.fraction} of the sites"
        )
    plan.train.check()
    plan.tuning.check()
    plan.cohort.check()
    check_regions(plan.cohort, plan.codings)
    return plan


def config_from_dict(loaded: Mapping[str, Any]) -> Config:
    """Read and check a configuration from plain data."""
    known = [field.name for field in fields(Config)]
    config = read_options(Config, {k: v for k, v in loaded.items() if k in known}, "configuration")
    config.check()
    return config


def _positive(where: str, holder: object, *names: str) -> None:
    for name in names:
        value = getattr(holder, name)
        if value is not None and not value > 0:
            raise UserError(f"{where}.{name} must be greater than 0, got {value}")


def _finite(where: str, value: object) -> None:
    """Raise UserError for a number that is none, wherever it stands in plain data."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, got {value}")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _finite(f"{where}.{key}" if where else str(key), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _finite(where, inner)


def _one_of(where: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{where} must be one of {', '.join(choices)}, got {value!r}")
