"""FedAvg by pfl-research (Granqvist et al., 2024) in one process, with or without its evaluation.

Its FederatedAveraging, its simulated backend and its weights by data points. Its evaluation is that
of its algorithm: each site's training data before and after training, and the test data of all sites.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.peers.site_files import Report, parser, perceptron, read_sites


class Classifier(nn.Module):
    """The perceptron, with the two functions that pfl asks of a model."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch."""
        self.train()
        return cross_entropy(self.network(inputs), labels)

    @torch.no_grad()
    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return loss and accuracy over a batch, with its number of examples."""
        self.eval()
        outputs, count = self.network(inputs), len(labels)
        right = int((outputs.argmax(1) == labels).sum())
        loss = cross_entropy(outputs, labels, reduction="sum").item()
        return {"loss": Weighted(loss, count), "accuracy": Weighted(right, count)}


class RoundEnds(TrainingProcessCallback):  # type: ignore[misc]  # pfl is in its own environment
    """Notes when each round ended, in ``report``."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Any]:
        """Note the end of a round, and what pfl evaluated in it."""
        found: Mapping[str, float] = aggregate_metrics.to_simple_dict()
        self.report.end_round(**{name: float(value) for name, value in found.items()})
        return False, Metrics()


def dataset(examples: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """Return sites with the given inputs and labels; a cohort of all has each of them once."""
    sites = {str(number): each for number, each in enumerate(examples)}
    return FederatedDataset.from_slices(sites, get_user_sampler("minimize_reuse", list(sites)))


def main() -> None:
    """Run the rounds that the command line asks for."""
    made = parser(__doc__)
    made.add_argument("--evaluate", type=int, choices=(0, 1), required=True)
    options = made.parse_args()
    sites = read_sites(options.data, options.sites)
    network = Classifier(perceptron(options.start))
    sgd = torch.optim.SGD
    model = PyTorchModel(
        network,
        partial(sgd, momentum=0.9),
        sgd(network.parameters(), lr=1.0),  # the mean difference is added as it is
    )
    backend = SimulatedBackend(
        training_data=dataset([(each.train_x, each.train_y) for each in sites]),
        val_data=dataset([(each.test_x, each.test_y) for each in sites]),
        postprocessors=[WeightByDatapoints()],
    )
    # Without evaluation there is still that of the first round, which pfl always has.
    params = NNAlgorithmParams(
        central_num_iterations=options.num_server_rounds,
        evaluation_frequency=1 if options.evaluate else sys.maxsize,
        train_cohort_size=options.sites,
        val_cohort_size=options.sites if options.evaluate else 0,
    )
    training = NNTrainHyperParams(
        local_num_epochs=options.local_epochs,
        local_learning_rate=options.lr,
        local_batch_size=options.batch_size,
    )
    report = Report(options.sites)
    FederatedAveraging().run(
        algorithm_params=params,
        backend=backend,
        model=model,
        model_train_params=training,
        model_eval_params=NNEvalHyperParams(local_batch_size=options.batch_size),
        callbacks=[RoundEnds(report)],
        send_metrics_to_platform=False,
    )
    report.write(options.output, list(network.parameters()))


if __name__ == "__main__":
    main()
