"""The ServerApp of the quickstart; it also writes down when each round ended, and the average."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from sites.task import start

app = ServerApp()


class Timed(FedAvg):
    """FedAvg that keeps when each round ended."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.ended: list[float] = []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Note the end of the round."""
        metrics = super().aggregate_evaluate(server_round, replies)
        self.ended.append(time.time())
        return metrics


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg over all sites."""
    told = context.run_config
    strategy = Timed(fraction_train=1.0, fraction_evaluate=1.0)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(start(str(told["data"])).state_dict()),
        num_rounds=int(told["num-server-rounds"]),
    )
    output = Path(str(told["output"]))
    average = [array.numpy() for array in result.arrays.values()]
    np.savez(output / "average.npz", **{f"{i:02d}": a for i, a in enumerate(average)})
    (output / "rounds.json").write_text(json.dumps({"ended": strategy.ended}))
