"""The configuration of a run, typed. All values are in the YAML files of conf/, none is here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from fedstrata.protocol.codings import Codings, read_codings
from fedstrata.protocol.measures import MEASURES
from fedstrata.protocol.offered_models import MODELS, check_assigned, check_models
from fedstrata.protocol.plan import (
    NO_TABLE,
    OF_MODELS,
    OF_UPDATES,
    CohortConfig,
    Plan,
    TrainConfig,
    Tuning,
    check_cohorts,
    one_of,
    positive,
)
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options

LEAST_SHARE = 0.5
AUTO = "auto"


@dataclass(frozen=True)
class BoundsConfig:
    """What one site may do to a round; see conf/strategy/default.yaml."""

    norm_factor: float | None
    share: float
    memory_mb: float

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        positive("strategy.bounds", self, "memory_mb")
        if self.norm_factor is not None and self.norm_factor < 1:
            raise UserError(
                f"strategy.bounds.norm_factor must be at least 1, or null: got {self.norm_factor}"
            )
        if not LEAST_SHARE <= self.share <= 1:
            raise UserError(f"strategy.bounds.share must be {LEAST_SHARE} to 1, got {self.share}")


INFLUENCES = ("clip", "median", "none")


@dataclass(frozen=True)
class TeacherConfig:
    """What the server's own learning may take, give and take over from one site.

    See conf/strategy/default.yaml.
    """

    seconds: float
    memory_mb: float
    norm: float
    influence: str
    clip: float

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        positive("strategy.teacher", self, "seconds", "memory_mb", "norm")
        one_of("strategy.teacher.influence", self.influence, INFLUENCES)
        if not self.clip >= 1:
            raise UserError(f"strategy.teacher.clip must be at least 1, got {self.clip}")


UNBOUNDED = TeacherConfig(math.inf, math.inf, math.inf, "none", math.inf)


@dataclass(frozen=True)
class StrategyConfig:
    """The rounds; see conf/strategy/default.yaml."""

    rounds: int
    evaluate_every: int
    checkpoint_every: int
    fraction: float
    sites: tuple[str, ...]
    min_sites: int
    join_timeout: float
    give_up: float
    deadline: float
    minimum: dict[str, int]
    bounds: BoundsConfig
    teacher: TeacherConfig
    on_site_error: str
    poll: float
    final_timeout: float
    aggregators: dict[str, Any]
    coding: dict[str, Any]
    coding_down: dict[str, Any]

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        names = ("evaluate_every", "checkpoint_every", "fraction", "min_sites", "deadline", "poll")
        positive("strategy", self, *names, "join_timeout", "give_up", "final_timeout")
        if self.rounds < 0:
            raise UserError(f"strategy.rounds must be 0 or greater, got {self.rounds}")
        if self.fraction > 1:
            raise UserError(
                f"strategy.fraction is a share of the sites, at most 1: {self.fraction}"
            )
        if len(set(self.sites)) < len(self.sites):
            raise UserError(f"strategy.sites names a site twice: {', '.join(self.sites)}")
        for group, least in self.minimum.items():
            if least < 0:
                raise UserError(f"strategy.minimum.{group} must be 0 or greater, got {least}")
        self.bounds.check()
        self.teacher.check()
        one_of("strategy.on_site_error", self.on_site_error, ("stop", "exclude"))
        read_codings(self.coding, self.coding_down)

    @property
    def first_candidate(self) -> int:
        """After so many rounds, and every so many, a state is both measured and has a checkpoint.

        Only such a state, and the last one, can be called the best.
        """
        return math.lcm(self.evaluate_every, self.checkpoint_every)

    def evaluates(self, number: int) -> bool:
        """Return whether sites measure the layers that they receive in round ``number``."""
        return (number - 1) % self.evaluate_every == 0

    def saves(self, number: int) -> bool:
        """Return whether the server writes a checkpoint after round ``number``, whatever happens."""
        return number % self.checkpoint_every == 0 or number == self.rounds

    @cached_property
    def codings(self) -> Codings:
        """The coding of each group, up and down."""
        return read_codings(self.coding, self.coding_down, self.rounds)


@dataclass(frozen=True)
class BaselinesConfig:
    """What is trained for comparison, without the federation."""

    alone: bool
    pooled: bool
    reuse: bool


@dataclass(frozen=True)
class CompareConfig:
    """What a comparison of runs counts; see conf/config.yaml."""

    target: float | None


@dataclass(frozen=True)
class ChooseConfig:
    """Which state is the best, and when rounds stop; see conf/config.yaml."""

    metric: str
    over: str
    patience: int | None

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        known = dict.fromkeys(name for kind in MEASURES.values() for name in kind.of)
        one_of("choose.metric", self.metric, (AUTO, *known))
        one_of("choose.over", self.over, ("mean", "worst"))
        positive("choose", self, "patience")


@dataclass(frozen=True)
class DeploymentConfig(Tuning):
    """The fine-tuning, and the sites that join after the rounds; see conf/config.yaml."""

    newcomers: tuple[str, ...]

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        super().check()
        if self.newcomers and not self.epochs:
            raise UserError(
                f"deployment.newcomers names {', '.join(self.newcomers)}, but they only fine-tune, and "
                "deployment.epochs=0 leaves that out: set deployment.epochs"
            )
        if len(set(self.newcomers)) < len(self.newcomers):
            raise UserError(f"deployment.newcomers names a site twice: {', '.join(self.newcomers)}")

    @property
    def tuning(self) -> Tuning:
        """The part that the sites need."""
        return Tuning(self.epochs, self.groups, self.lr_factor)


@dataclass(frozen=True)
class Config:
    """All settings of one run.

    ``model``, ``models``, ``weights``, ``data``, ``method`` and ``tracker`` are checked by the code
    that uses them, because their options depend on the name chosen there.
    """

    seed: int
    model: dict[str, Any]
    models: dict[str, Any]
    weights: dict[str, Any]
    data: dict[str, Any]
    groups: dict[str, Any]
    method: dict[str, Any]
    train: TrainConfig
    strategy: StrategyConfig
    baselines: BaselinesConfig
    compare: CompareConfig
    choose: ChooseConfig
    tracker: dict[str, Any]
    keep_models: str
    keep_models_mb: float
    public_models: str
    cross_site: str
    deployment: DeploymentConfig
    cohort: CohortConfig

    def check(self) -> None:
        """Raise UserError for a value out of its range."""
        _finite("", self.to_dict())
        self.train.check()
        self.strategy.check()
        self.choose.check()
        one_of("keep_models", self.keep_models, (AUTO, "all", "last", "none"))
        if not self.keep_models_mb >= 0:
            raise UserError(f"keep_models_mb must be 0 or greater, got {self.keep_models_mb:g}")
        one_of("public_models", self.public_models, (AUTO, "all", "none"))
        self.deployment.check()
        self.cohort.check()
        check_cohorts(self.cohort, self.strategy.codings)
        self._check_patience()
        self._check_cross_site()
        self._check_measured_run()
        self._check_sites()
        for part in ("model", "data", "method"):
            if not isinstance(getattr(self, part).get("name"), str):
                raise UserError(f"{part}.name must say which {part} to use")
        check_models(self.models)
        check_assigned(self.models, self.data.get(MODELS))

    def _check_patience(self) -> None:
        """Raise UserError where no state that could be the best is known before the last round."""
        strategy, first = self.strategy, self.strategy.first_candidate
        if self.choose.patience is None or first == 1 or not 0 < strategy.rounds <= first:
            return
        raise UserError(
            f"choose.patience={self.choose.patience}: the first state that is measured "
            f"(strategy.evaluate_every={strategy.evaluate_every}) and has a checkpoint "
            f"(strategy.checkpoint_every={strategy.checkpoint_every}) is that after round {first} of "
            f"{strategy.rounds}, so it could stop no round: write choose.patience=null, or "
            "strategy.evaluate_every=1 strategy.checkpoint_every=1"
        )

    def _check_cross_site(self) -> None:
        """Raise UserError for a cross-site table that does not exist, or cannot be had."""
        one_of("cross_site", self.cross_site, (NO_TABLE, OF_MODELS, OF_UPDATES))
        if self.cross_site != NO_TABLE and self.cohort.sites > 1:
            raise UserError(
                f"cross_site={self.cross_site} needs a SuperNode for each site: cohort.sites="
                f"{self.cohort.sites} puts several on one; write cohort.sites=1 or cross_site=none"
            )
        if self.cross_site == OF_MODELS and not (self.kept_models or self.deployment.epochs):
            raise UserError(
                "cross_site=models reads the sites' models from their folders, and keep_models=none "
                "writes none: write keep_models=last, keep_models=all or cross_site=none"
            )
        if self.cross_site == OF_UPDATES and not self.strategy.rounds:
            raise UserError(
                "cross_site=updates has each site train once more, and strategy.rounds=0 trains "
                "nothing: write cross_site=models, in a simulation, or cross_site=none"
            )

    def _check_measured_run(self) -> None:
        """Raise UserError where a run trains nothing and measures none, or does both."""
        measures, rounds = self.weights.get("source") == "run", self.strategy.rounds
        if not measures and not rounds:
            raise UserError(
                "strategy.rounds=0 trains nothing: add weights=run weights.run=<name> to measure a "
                "finished run, or write strategy.rounds=1 or more"
            )
        if measures and rounds:
            raise UserError(
                "weights=run measures a finished run, and trains nothing: add strategy.rounds=0; to "
                "train on from a model write weights=file weights.path=<file>"
            )
        if measures and self.deployment.epochs:
            raise UserError(
                "weights=run trains nothing: leave deployment.epochs out; to fine-tune a finished run "
                "resume it with deployment.epochs"
            )

    def _check_sites(self) -> None:
        """Raise UserError where the sites of a run cannot be enough, or leave out a newcomer."""
        chosen, newcomers = self.strategy.sites, self.deployment.newcomers
        if not chosen:
            return
        if left_out := sorted(set(newcomers) - set(chosen)):
            raise UserError(
                f"deployment.newcomers names {', '.join(left_out)}, which strategy.sites leaves out: "
                "write them there too"
            )
        if len(chosen) - len(newcomers) < self.strategy.min_sites:
            raise UserError(
                f"strategy.min_sites={self.strategy.min_sites} is more than strategy.sites names: "
                f"{', '.join(chosen)}"
            )

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of the offered models; "" alone where the run has one network."""
        return tuple(sorted(self.models)) or ("",)

    def of_model(self, name: str) -> Config:
        """Return the configuration with one offered model as that of all, and its start weights.

        With "", of a run with one network, it is the same.
        """
        if not name:
            return self
        options = dict(self.models[name])
        weights = options.pop("weights", self.weights)
        return replace(self, model=options, models={}, weights=weights)

    @property
    def kept_models(self) -> tuple[str, ...]:
        """The states of which each site writes its whole model: ``last`` and ``best``.

        With ``auto`` the sites of cohorts may write none; see `server_app.written_models`.
        """
        keep = "all" if self.keep_models == AUTO else self.keep_models
        return {"all": ("last", "best"), "last": ("last",), "none": ()}[keep]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as written to results.json and to checkpoints."""
        return asdict(self)


def plan_for(
    config: Config, *, federation: str, weights: str, starts: Mapping[str, str] | None = None
) -> Plan:
    """Return the plan that the sites of ``config`` get; ``starts`` are the weights by model."""
    shared = {f.name for f in fields(Plan)} & {f.name for f in fields(Config)}
    return Plan(
        federation=federation,
        rounds=config.strategy.rounds,
        fraction=config.strategy.fraction,
        coding=config.strategy.coding,
        coding_down=config.strategy.coding_down,
        **{name: getattr(config, name) for name in shared - {"weights", "models"}},
        models={name: config.of_model(name).model for name in config.models},
        weights=weights,
        starts=dict(starts or {}),
        tuning=config.deployment.tuning,
    )


def config_from_dict(loaded: Mapping[str, Any]) -> Config:
    """Read and check a configuration from plain data."""
    known = [field.name for field in fields(Config)]
    config = read_options(Config, {k: v for k, v in loaded.items() if k in known}, "configuration")
    config.check()
    return config


def _finite(where: str, value: object) -> None:
    """Raise UserError for an infinity or NaN anywhere in plain data."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, got {value}")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _finite(f"{where}.{key}" if where else str(key), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _finite(where, inner)
