"""The server's part of the model as a file of each task: what a hospital that took no part can get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedstrata.protocol.answers import SiteReport
from fedstrata.protocol.plan import Plan
from fedstrata.support.folders import default_models_dir, model_folder
from models.groups import Scope
from models.model_card import PUBLIC, ModelCard, Network, Start, versions_of
from models.model_file import write_model
from models.networks import OF_TOKENS
from models.text_folders import model_files
from models.weights import Checkpoint
from server_app.disk_room import writing
from server_app.patience import Log
from server_app.rounds.state import ServerState
from strategies.method import Method
from strategies.partitioned_model import PartitionedModel, build_partitioned

FOLDER = "models"  # in the run's folder


@dataclass(frozen=True)
class PublicModels:
    """What the server has learned, for those who took no part.

    Parameters
    ----------
    plan : Plan
        The run's, with its start and the scale that all agreed on.
    state : ServerState
        The layers.
    references : mapping of str to SiteReport
        By variant, the report of one of its sites.
    starts : mapping of str to Checkpoint
        What each model started from, "" being the only network of a run.
    """

    plan: Plan
    state: ServerState
    references: Mapping[str, SiteReport]
    starts: Mapping[str, Checkpoint]

    def write(self, folder: Path, results: Mapping[str, Any], log: Log) -> list[Path]:
        """Write ``models/<task>.safetensors`` into the run's folder, and say so.

        Where sites of a task have different networks there is one file for each,
        ``<task>@<model>.safetensors``. In each are the task's whole tensors: pre-trained, common
        and of the task. Those of personal groups are as the run began with them, for no site's own
        ever reach the server.
        """
        written: list[Path] = []
        shared = 0
        for variant, report in sorted(self.references.items()):
            path = folder / FOLDER / f"{variant.replace('/', '@')}.safetensors"
            partitioned = self._partitioned(variant, report)
            card = self._card(report, partitioned, results)
            with writing(f"the public model of task {variant}", folder):
                tensors, files = self._tensors(partitioned), self._files(report)
                write_model(path, tensors, card, files)
            written.append(path)
            shared = self._shared_bytes(partitioned, tensors, files)  # the same of each task
        for line in size_lines(written, shared):
            log(line)
        return written

    @staticmethod
    def _shared_bytes(
        partitioned: PartitionedModel, tensors: Mapping[str, Tensor], files: Mapping[str, bytes]
    ) -> int:
        """Return how many bytes of a task's file are in the file of every task."""
        partition = partitioned.partition
        names = [
            name
            for group, each in partition.groups.items()
            if each.scope in (Scope.NOBODY, Scope.ALL_SITES)
            for name in partition.names(group)
        ]
        return sum(tensors[n].nbytes for n in names if n in tensors) + sum(map(len, files.values()))

    def _partitioned(self, variant: str, report: SiteReport) -> PartitionedModel:
        made = build_partitioned(
            self.plan.of_model(report.model),
            self.state.method,
            input_shape=report.input_shape,
            classes=len(report.classes),
        )
        if start := self.starts.get(report.model):
            made.load_pretrained(start.tensors)
        for key in self.state.scope_keys(variant).values():
            held = self.state.states[key]
            own = made.model.state_dict()
            made.load({name: tensor for name, tensor in held.items() if name in own})
        return made

    @staticmethod
    def _tensors(partitioned: PartitionedModel) -> dict[str, Tensor]:
        return partitioned.tensors(list(partitioned.model.state_dict()))

    def _files(self, report: SiteReport) -> dict[str, bytes]:
        """Return the files of a text model's folder."""
        model = self.plan.of_model(report.model).model
        if model["name"] not in OF_TOKENS:
            return {}
        return model_files(model_folder(model["folder"], default_models_dir()))

    def _card(
        self,
        report: SiteReport,
        partitioned: PartitionedModel,
        results: Mapping[str, Any],
    ) -> ModelCard:
        plan, partition = self.plan.of_model(report.model), partitioned.partition
        sites = {
            name: each
            for name, each in results["sites"].items()
            if (each["task"], each["model"] or "") == (report.task, report.model)
        }
        examples = {
            split: sum(each["examples"][split] for each in sites.values())
            for split in ("train", "validation", "test")
        }
        measured = (results.get("final") or {}).get("sites", {})
        start = self.starts.get(report.model)
        return ModelCard(
            state=PUBLIC,
            network=Network.of(plan.model, report.input_shape),
            task=report.task,
            outputs=report.classes,
            kind=report.kind,
            preprocessing=None,
            groups={name: len(partition.names(name)) for name in partition.groups},
            method=str(plan.method["name"]),
            predicts_alone=type(self.state.method).predictor is Method.predictor,
            run=plan.federation,
            site="",
            round=len(results["rounds"]),
            seed=plan.seed,
            examples=examples,
            metrics={
                name: {"test": _numbers(measured[name])} for name in sites if name in measured
            },
            start=None if start is None else Start(start.content_hash, **start.texts),
            plan=plan.to_json(),
            versions=versions_of("torch", "torchvision"),
        )


def size_lines(written: Sequence[Path], shared: int) -> Iterator[str]:
    """Yield what the log says of the files: where they are, and what each repeats."""
    if not written:
        return
    sizes = [path.stat().st_size for path in written]
    named = (f"{path} ({_megabytes(size)})" for path, size in zip(written, sizes, strict=True))
    yield f"the public part of the model: {', '.join(named)}"
    if len(written) > 1:
        yield (
            f"each of these {len(written)} files is a whole model: {_megabytes(shared)} of it are layers "
            f"that all tasks share, so {_megabytes(shared * (len(written) - 1))} of "
            f"{_megabytes(sum(sizes))} are repeated"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


def _numbers(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the measures of a site's record, without what is said of them."""
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
