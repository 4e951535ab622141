"""The whole model of a site as a file of its own: its card, its tokenizer, and its test examples."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from client_app.context import SiteContext, checkpoint_path
from client_app.data.arrays import Stamp, stamp
from client_app.failures import writing
from client_app.kept_examples import write_how_read
from client_app.store import DiskStore
from fedstrata.protocol.answers import Metrics
from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER
from fedstrata.support import tensor_files
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError, private_reason
from fedstrata.support.folders import model_folder
from models.model_card import (
    BEST,
    DEPLOYED,
    LAST,
    STATES,
    ModelCard,
    Network,
    Start,
    versions_of,
)
from models.model_file import read_model, write_model
from models.preprocessing import Text
from models.text_folders import model_files
from models.training.data import SiteData
from strategies.site_round import SiteRound

TEST_EXAMPLES = "test-examples.csv"  # in the site's folder of the run
UNKNOWN = "not known at this site: the server's card of the run says it"


def model_path(store: DiskStore, state: str) -> Path:
    """Return where a site's model of ``state`` is: ``deployed``, ``last`` or ``best``."""
    assert state in STATES
    if state == DEPLOYED:
        return store.deployed
    return store.folder / "models" / f"{state}.safetensors"


def write_site_model(
    context: SiteContext,
    state: str,
    number: int,
    *,
    site_round: SiteRound,
    metrics: Mapping[str, Metrics],
    tuned: Collection[str] = (),
) -> Path:
    """Write the model as it is now, whole, with its card, and where the test examples are.

    Parameters
    ----------
    context : SiteContext
        The site, its layers loaded.
    state : str
        ``deployed``, ``last`` or ``best``; says where the file is.
    number : int
        After which round.
    site_round : SiteRound
        What the method has of its own at the site.
    metrics : mapping
        What was measured, by stage such as ``before`` and ``after``, then by split.
    tuned : collection of str
        Parameters that the site fine-tuned by itself.

    Returns
    -------
    Path
        The file.
    """
    model = context.partitioned
    tensors = model.tensors(list(model.model.state_dict()))
    alone = context.method.deployed(site_round)
    tensors |= {name: tensor.detach().cpu().contiguous() for name, tensor in (alone or {}).items()}
    kept = {f"memory/{name}": tensor for name, tensor in site_round.memory.items()}
    card = site_card(
        context, state, number, metrics=metrics, tuned=tuned, predicts_alone=alone is not None
    )
    path = model_path(context.store, state)
    with writing("the site's model"):
        write_model(path, {**tensors, **kept}, card, _files(context))
        write_test_examples(context.store.folder / TEST_EXAMPLES, context.data)
        write_how_read(context)
    return path


def call_last_best(context: SiteContext) -> None:
    """Write the last model once more as the best one: the server found that they are one."""
    with private_reason("the site's last model cannot be read"):
        last = read_model(model_path(context.store, LAST))
    card = msgspec.structs.replace(last.card, state=BEST)
    with writing("the site's model"):
        write_model(model_path(context.store, BEST), last.tensors, card)


def site_card(
    context: SiteContext,
    state: str,
    number: int,
    *,
    metrics: Mapping[str, Metrics],
    tuned: Collection[str] = (),
    predicts_alone: bool = True,
) -> ModelCard:
    """Return the card of the site's model as it is now; arguments as of `write_site_model`.

    A method may predict with more than the network: then it does not ``predict_alone``.
    """
    data, plan, partition = context.data, context.plan, context.partitioned.partition
    counts = data.counts() if data.kind.name != NUMBER else {}
    return ModelCard(
        state=state,
        network=Network.of(plan.model, data.input_shape),
        task=data.task,
        outputs=data.classes,
        kind=data.kind,
        preprocessing=data.preprocessing,
        groups={name: len(partition.names(name)) for name in partition.groups},
        method=str(plan.method["name"]),
        predicts_alone=predicts_alone,
        run=plan.federation,
        site=data.site,
        round=number,
        seed=plan.seed,
        examples={
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
        },
        tuned=tuple(tuned),
        classes={k: dict(v) for k, v in counts.items() if isinstance(v, Mapping)},
        metrics={stage: {k: dict(v) for k, v in of.items()} for stage, of in metrics.items()},
        start=_start(context),
        data=data.digest,
        plan=plan.to_json(),
        versions=versions_of("torch", "torchvision", "pillow"),
    )


def _start(context: SiteContext) -> Start | None:
    wanted = context.plan.weights
    if not wanted:
        return None
    try:
        found = tensor_files.read_metadata(checkpoint_path(context.node.cache_dir, wanted))
    except UserError:  # the card says that it is not known
        found = {}
    return Start(wanted, found.get("source", UNKNOWN), found.get("licence", UNKNOWN))


def _files(context: SiteContext) -> dict[str, bytes]:
    """Return the files of a text model's folder that its network and tokenizer need."""
    given = context.data.preprocessing
    if not isinstance(given, Text):
        return {}
    with private_reason("the files of data.folder cannot be read"):
        return model_files(model_folder(given.folder, context.node.models_dir))


@dataclass(frozen=True)
class Target:
    """How what is predicted of an example is written into a table."""

    data: SiteData

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return ("target",) if self.data.kind.name == CLASSES else self.data.classes

    def cells(self, row: int) -> list[str]:
        """Return the cells of the test example ``row``; empty where nothing is known."""
        target = self.data.test.labels[row]
        if self.data.kind.name == CLASSES:
            return [self.data.classes[int(target)]]
        if self.data.kind.name == LABELS:
            return ["" if np.isnan(each) else str(int(each)) for each in target]
        return ["" if np.isnan(each) else repr(float(each)) for each in target]


def write_test_examples(path: Path, data: SiteData) -> None:
    """Write which examples are test data; for the owner alone. Without places there is no file."""
    if data.test_places is None:
        return
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    target = Target(data)
    rows.writerow(["file", "row", "sha256", *target.columns()])
    places = zip(data.test_places.files, data.test_places.rows, strict=True)
    for number, (file, row) in enumerate(places):
        rows.writerow([as_text(file), row, _digest(stamp(file)), *target.cells(number)])
    with replacing_private(path) as unfinished:
        unfinished.write_text(written.getvalue(), encoding="utf-8")


def as_text(path: Path) -> str:
    """Return a path for a table; of a name that is no UTF-8 its bytes, escaped."""
    return str(path).encode(errors="backslashreplace").decode()


@lru_cache(maxsize=65_536)
def _digest(stamped: Stamp) -> str:
    with stamped[0].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
