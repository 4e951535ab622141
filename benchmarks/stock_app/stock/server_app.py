"""The ServerApp of the quickstart; it also writes down when each round ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from stock.task import network

app = ServerApp()
SITES = 3


class Timed(FedAvg):
    """FedAvg that keeps the time of each round, and the longest that a site worked in it."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.rounds: list[dict[str, float]] = []
        self.began = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note the beginning of a round."""
        self.began = time.monotonic()
        self.rounds.append({"trained": 0.0})
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note how long the slowest site trained."""
        kept = list(replies)
        self._note(kept)
        return super().aggregate_train(server_round, kept)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Note how long the slowest site evaluated, and the end of the round."""
        kept = list(replies)
        self._note(kept)
        self.rounds[-1]["seconds"] = time.monotonic() - self.began
        return super().aggregate_evaluate(server_round, kept)

    def _note(self, replies: list[Message]) -> None:
        worked = [reply.content["metrics"]["seconds"] for reply in replies if reply.has_content()]
        self.rounds[-1]["trained"] += max(float(seconds) for seconds in worked)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg."""
    torch.manual_seed(1)
    strategy = Timed(
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=SITES,
        min_evaluate_nodes=SITES,
        min_available_nodes=SITES,
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(network().state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    told = {"rounds": strategy.rounds, "metrics": str(result.evaluate_metrics_clientapp)}
    Path(str(context.run_config["output"])).write_text(json.dumps(told))
