"""TensorBoard: event files in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedstrata.support.options import read_options
from fedstrata.support.paths import absolute_path
from server_app.trackers.tracker import Plain, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


SHOWN = ("final/mean/accuracy", "best/mean/accuracy")  # beside the parameters of a run


@dataclass(frozen=True)
class TensorBoardOptions:
    """See conf/tracker/tensorboard.yaml."""

    folder: str


class TensorBoard(Tracker):
    """Writes event files, which `tensorboard --logdir` shows."""

    module, package = "tensorboard", "tensorboard"
    _writer: SummaryWriter | None = None

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise UserError for a relative folder."""
        folder = read_options(TensorBoardOptions, options, "tracker").folder
        if folder:
            absolute_path(folder, "tracker.folder")

    @property
    def place(self) -> str:
        """The folder of the event files."""
        folder = self.options["folder"]
        return str(Path(folder) / self.run.name if folder else self.run / "tensorboard")

    def begin(self, known: str, step: int) -> str:
        """Go on in the same folder; TensorBoard shows nothing that was written of later steps."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is not None:
            self._writer.close()
        self._writer = SummaryWriter(self.place, purge_step=step if known else None)
        return self.run.name

    def parameters(self, values: Mapping[str, Plain]) -> None:
        """Write them as hyper-parameters, and as a table under Text."""
        from torch.utils.tensorboard.summary import hparams

        file: Any = self.writer.file_writer
        for each in hparams(dict(values), dict.fromkeys(SHOWN, 0.0)):  # type: ignore[no-untyped-call]
            file.add_summary(each)
        rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in values.items())
        self.writer.add_text("parameters", f"| key | value |\n|---|---|\n{rows}", 0)
        self.writer.flush()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write one scalar for each."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, state: str) -> None:
        """Say how the run ended, under Text, and close the file."""
        self.writer.add_text("state", state)
        self.writer.close()
        self._writer = None

    @property
    def writer(self) -> SummaryWriter:
        """The open file."""
        assert self._writer is not None
        return self._writer


def _cell(value: Plain) -> str:
    """Return a value as it may stand in a table of Markdown."""
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
