"""results.json of a run as typed values; what is not as docs/results.md says is an error by name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fedstrata.protocol.measures import MEASURES, Measures
from fedstrata.protocol.task_kinds import CLASSES
from fedstrata.runs.folder import MOST_BYTES, read_state
from fedstrata.support.errors import UserError

FILE = "results.json"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**60)]
MOST = 1e40  # of a figure: its sums and squares over runs stay finite
Amount = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
Number = Annotated[float, msgspec.Meta(ge=-MOST, le=MOST)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Kind = Literal["classes", "labels", "number"]
Reasons = dict[str, str]


class ClassRates(msgspec.Struct, frozen=True):
    """One class or label against the rest."""

    sensitivity: Number | None = None
    specificity: Number | None = None
    ppv: Number | None = None
    npv: Number | None = None
    f1: Number | None = None
    threshold: Number | None = None
    intervals: dict[str, tuple[float, float] | None] = {}


class Calibration(msgspec.Struct, frozen=True):
    """Expected calibration error, and of each bin: confidence, accuracy, share of the examples."""

    error: Number | None = None
    bins: list[tuple[Share, Share, Share] | None] = []


class Measured(msgspec.Struct, frozen=True):
    """Measures of a site or of a task, and what they are compared with."""

    kind: Kind = "classes"
    task: str = ""
    unit: str = ""
    examples: Amount = 0.0
    loss: Number | None = None
    accuracy: Number | None = None
    balanced_accuracy: Number | None = None
    auroc: Number | None = None
    average_precision: Number | None = None
    mae: Number | None = None
    rmse: Number | None = None
    r2: Number | None = None
    majority_accuracy: Number | None = None
    baseline_auroc: Number | None = None
    baseline_mae: Number | None = None
    alone_accuracy: Number | None = None
    alone_auroc: Number | None = None
    alone_mae: Number | None = None
    pooled_accuracy: Number | None = None
    pooled_auroc: Number | None = None
    pooled_mae: Number | None = None
    gain_over_alone: Number | None = None
    interval: tuple[float, float] | None = None
    sites: int = 0
    worst: dict[str, str | float] = {}
    spread: Number | None = None
    train_examples: Count = 0
    seconds: Amount = 0.0
    by_class: dict[str, ClassRates] = {}
    confusion: list[list[Count]] | None = None
    calibration: Calibration | None = None
    roc: dict[str, list[Share]] = {}

    def __post_init__(self) -> None:
        matrix = self.confusion
        if matrix is not None and any(len(row) != len(matrix) for row in matrix):
            raise ValueError("a confusion matrix that is not square")

    @property
    def measures(self) -> Measures:
        """The measures of the kind of task."""
        return MEASURES[self.kind]

    @property
    def value(self) -> float | None:
        """The leading measure."""
        return self.of(self.measures.leading)

    @property
    def baseline(self) -> float | None:
        """The leading measure of a guess without input."""
        before = "majority" if self.kind == CLASSES else "baseline"
        return self.of(f"{before}_{self.measures.leading}")

    @property
    def alone(self) -> float | None:
        """The leading measure of training alone."""
        return self.of(f"alone_{self.measures.leading}")

    @property
    def pooled(self) -> float | None:
        """The leading measure of training on the data of all sites in one place."""
        return self.of(f"pooled_{self.measures.leading}")

    @property
    def gain(self) -> float | None:
        """By how much the leading measure is better than alone; of a task, over the same sites."""
        if self.gain_over_alone is not None:
            return self.gain_over_alone
        return self.measures.gain(self.value, self.alone)

    def of(self, name: str) -> float | None:
        """Return the measure ``name``."""
        value: float | None = getattr(self, name)
        return value


class Opening(msgspec.Struct, frozen=True):
    """What was asked before round 1."""

    refused: Reasons = {}
    late: Reasons = {}
    absent: Reasons = {}


class Round(msgspec.Struct, frozen=True):
    """One round."""

    round: Count
    evaluated: bool = True  # whether its sites measured what they received
    seconds: Amount = 0.0
    bytes_down: dict[str, Count] = {}
    bytes_up: dict[str, Count] = {}
    participants: list[str] = []
    refused: Reasons = {}
    late: Reasons = {}
    absent: Reasons = {}
    kept: Reasons = {}
    unauthorized: Reasons = {}
    limited: Reasons = {}
    lost: Reasons = {}
    suspects: Reasons = {}
    tasks: dict[str, Measured] = {}
    sites: dict[str, Measured] = {}
    opening: Opening | None = None


class Evaluation(msgspec.Struct, frozen=True):
    """A state measured by all sites: the last one, or the best."""

    tasks: dict[str, Measured] = {}
    sites: dict[str, Measured] = {}
    refused: Reasons = {}
    late: Reasons = {}
    absent: Reasons = {}
    # Of the best state alone: after which round, and what chose it.
    round: Count | None = None
    metric: str = ""
    over: str = ""
    value: Number | None = None


class Tuned(msgspec.Struct, frozen=True):
    """A site's fine-tuning of the last state."""

    before: Measured
    after: Measured
    task: str = ""
    kind: Kind = "classes"
    unit: str = ""
    gain: Number | None = None
    over_alone: Number | None = None
    tuned: Count = 0

    @property
    def measures(self) -> Measures:
        """The measures of the kind of task."""
        return MEASURES[self.kind]

    @property
    def values(self) -> tuple[float | None, float | None]:
        """The leading measure before and after."""
        leading = self.measures.leading
        return self.before.of(leading), self.after.of(leading)


class Deployment(msgspec.Struct, frozen=True):
    """The fine-tuning of all sites."""

    sites: dict[str, Tuned] = {}
    newcomers: dict[str, Tuned] = {}
    refused: Reasons = {}
    late: Reasons = {}
    absent: Reasons = {}


class CrossSiteTask(msgspec.Struct, frozen=True):
    """By model and by site whose test data it is, measures; of the sites of one task."""

    models: dict[str, dict[str, Measured]]
    kind: Kind = "classes"
    unit: str = ""

    @property
    def measures(self) -> Measures:
        """The measures of the kind of task."""
        return MEASURES[self.kind]


class Unmeasured(msgspec.Struct, frozen=True):
    """A pair of a cross-site table that could not be measured."""

    model: str
    data: str
    reason: str


class CrossSite(msgspec.Struct, frozen=True):
    """Each site's model, or what it exchanges, on each other site's test data."""

    of: Literal["models", "updates"]
    tasks: dict[str, CrossSiteTask] = {}
    missing: list[Unmeasured] = []
    left_out: Reasons = {}
    state: Literal["last", "best", "deployed"] = "last"
    round: Count | None = None


class GroupRow(msgspec.Struct, frozen=True):
    """One layer group of a task's partition."""

    group: str
    tensors: Count
    parameters: Count
    bytes: Count
    trained: bool
    sent_to: str


class Coding(msgspec.Struct, frozen=True):
    """How a group travels."""

    up: dict[str, Any]
    down: dict[str, Any]


class DataFacts(msgspec.Struct, frozen=True):
    """What a site says of its data: in a simulation also a SHA-256 of them."""

    digest: str = ""


class Site(msgspec.Struct, frozen=True):
    """A site of the rounds."""

    task: str
    model: str | None = None  # None where the run has one network
    kind: Kind = "classes"
    classes: list[str] = []
    examples: dict[str, Count] = {}
    device: str = ""
    data: DataFacts | None = None

    @property
    def digest(self) -> str:
        """A SHA-256 of its data; "" of a deployed site."""
        return self.data.digest if self.data else ""


class Weights(msgspec.Struct, frozen=True):
    """The pre-trained start."""

    content_hash: str
    source: str


class Stopped(msgspec.Struct, frozen=True):
    """Why a run ended before its last round."""

    round: Count
    reason: str


class Results(msgspec.Struct, frozen=True):
    """results.json."""

    run: str
    config: dict[str, Any]
    versions: dict[str, str]
    seed: int
    partition: dict[str, list[GroupRow]]
    sites: dict[str, Site]
    rounds: list[Round]
    participation: dict[str, list[str]]
    coding: dict[str, Coding] = {}
    federation: str = ""
    weights: Weights | None = None
    starts: dict[str, Weights] = {}
    stopped: Stopped | None = None
    final: Evaluation | None = None
    best: Evaluation | None = None
    cross_site: CrossSite | None = None
    deployment: Deployment | None = None
    # Of the file, not in it.
    sha256: str = ""
    state: str = ""  # of progress.json beside it; "" where that is not there
    reason: str = ""

    def option(self, key: str, default: object = None) -> Any:
        """Return the option ``a.b`` of the configuration, or ``default``."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    @property
    def evaluate_every(self) -> int:
        """Sites measured what they received in round 1, and every so many rounds after it."""
        every = self.option("strategy.evaluate_every")
        return every if type(every) is int and every > 1 else 1

    @property
    def tasks(self) -> dict[str, Measured]:
        """The newest measures of each task: the final ones, or those of its last round."""
        found: dict[str, Measured] = {}
        for record in self.rounds:
            found |= record.tasks
        return found | (self.final.tasks if self.final else {})


def read_results(path: Path) -> Results:
    """Read results.json of a run.

    Parameters
    ----------
    path : Path
        The run's folder, or the file itself.

    Raises
    ------
    UserError
        There is none, or it is not one of a run.
    """
    file = path / FILE if path.is_dir() else path
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file} has more than {MOST_BYTES} bytes: it is no {FILE} of a run")
        data = file.read_bytes()
    except FileNotFoundError:
        raise UserError(_missing(path, file)) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    try:
        read = msgspec.json.decode(data, type=Results)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} is no {FILE} of a run: {error}") from None
    state, reason = read_state(file.parent)
    digest = hashlib.sha256(data).hexdigest()
    return msgspec.structs.replace(read, sha256=digest, state=state, reason=reason)


def _missing(path: Path, file: Path) -> str:
    if any((path / name).exists() for name in ("run.json", "progress.json")):
        return f"{path}: the run has no {FILE}; it is there after round 1 (see `fedstrata runs`)"
    return f"there is no {file}: name the folder of a run, such as outputs/faces-20261130-101500"
