"""The ServerApp of the quickstart; it also writes down when each round ended, and the average."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from stock.task import load_parameters, network

app = ServerApp()


class Timed(FedAvg):
    """FedAvg that notes when a round ended, how long the slowest site worked, and who answered."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.rounds: list[dict[str, float]] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note how long the slowest site trained."""
        replies = list(replies)
        self.rounds.append({"worked": self._longest(replies), "replies": self._count(replies)})
        return super().aggregate_train(server_round, replies)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Note how long the slowest site evaluated, and the end of the round."""
        replies = list(replies)
        last = self.rounds[-1]
        last["worked"] += self._longest(replies)
        last["replies"] = min(last["replies"], self._count(replies))
        metrics = super().aggregate_evaluate(server_round, replies)
        last["ended"] = time.time()
        return metrics

    @staticmethod
    def _count(replies: list[Message]) -> int:
        return sum(reply.has_content() for reply in replies)

    @staticmethod
    def _longest(replies: list[Message]) -> float:
        worked = [reply.content["metrics"]["seconds"] for reply in replies if reply.has_content()]
        return max(float(seconds) for seconds in worked)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg."""
    torch.manual_seed(1)
    sites = int(context.run_config["sites"])
    strategy = Timed(
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=sites,
        min_evaluate_nodes=sites,
        min_available_nodes=sites,
    )
    model = network(str(context.run_config["model"]))
    if context.run_config["start"]:
        load_parameters(model, str(context.run_config["start"]))
    arrays = ArrayRecord(model.state_dict())
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    output = Path(str(context.run_config["output"]))
    output.mkdir(parents=True, exist_ok=True)
    average = {f"{i:03d}": array.numpy() for i, array in enumerate(result.arrays.values())}
    np.savez(output / "average.npz", **average)
    summary = {
        "rounds": strategy.rounds,
        "model": sum(len(array.data) for array in arrays.values()),  # bytes
    }
    # Written last: whoever waits for this file finds everything there.
    (output / "rounds.json").write_text(json.dumps(summary))
