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
    """FedAvg that keeps when each round ended, and how many sites answered."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.rounds: list[dict[str, float]] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note how many trained."""
        kept = list(replies)
        self.rounds.append({"replies": sum(reply.has_content() for reply in kept)})
        return super().aggregate_train(server_round, kept)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Note how many evaluated too, and the end of the round."""
        kept, last = list(replies), self.rounds[-1]
        last["replies"] = min(last["replies"], sum(reply.has_content() for reply in kept))
        metrics = super().aggregate_evaluate(server_round, kept)
        last["ended"] = time.time()
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
    (output / "rounds.json").write_text(json.dumps({"rounds": strategy.rounds}))
