"""GPFL: features are conditioned twice, on the classes of all sites and on those of this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.protocol.task_kinds import TaskKind
from models.training.losses import Extended
from strategies.method import Groups, Made, Method, at_least, needs_classes, with_rest_in
from strategies.site_round import LAST_LAYER, SiteRound


class Conditions(nn.Module):
    """One embedding per class, and the conditional valve: networks of a scale and a shift."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(classes, features)
        self.scale, self.shift = (
            nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.LayerNorm(features))
            for _ in range(2)
        )

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Return features ``(b, d)`` under a condition ``(d,)``."""
        scaled = features * (1 + self.scale(condition)) + self.shift(condition)
        return torch.relu(scaled)


class Conditioned(nn.Module):
    """``out`` over the features under the personal condition, which is fixed when made."""

    def __init__(self, site: SiteRound) -> None:
        super().__init__()
        assert isinstance(site.extras, Conditions)
        self.body, self.out, self.conditions = site.body, site.out, site.extras
        embeddings = self.conditions.classes.weight.detach().clone()
        counts = np.bincount(site.train.labels, minlength=site.classes)
        shares = torch.tensor(counts / counts.sum(), dtype=embeddings.dtype, device=site.device)
        self.received = embeddings
        self.personal, self.common = shares @ embeddings, embeddings.mean(0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        outputs: Tensor = self.out(self.conditions(self.body(inputs), self.personal))
        return outputs


class UnderBoth(Conditioned):
    """`Conditioned` that also gives the features under the common condition."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return outputs ``(b, classes)`` and features ``(b, d)``."""
        features = self.body(inputs)
        personal = self.conditions(features, self.personal)
        return self.out(personal), self.conditions(features, self.common)


@dataclass(frozen=True)
class GPFL(Method):
    """Zhang et al. 2023, "GPFL: Simultaneously Learning Global and ..." (arXiv:2308.10279).

    With features z and a condition c, ``z(c) = relu(z * (1 + scale(c)) + shift(c))``. The common
    condition is the mean of the class embeddings E, as received. The personal one is their mean
    weighted by the shares of the classes in the site's training data. The loss is
    ``CE(head(z(personal)), y) + CE(cos(z(common), E), y) + magnitude * mean ||z(common) - E_received[y]||
    + decay / 2 * (||E||^2 + ||scale, shift||^2)``.

    Body, scale and shift are common; the embeddings are of the task, for its classes are the task's;
    ``head.out`` is personal, and predicts. Where the paper's code differs: it takes one norm over
    the whole batch, which grows with its size, and conditions on the embeddings of the round before.

    Parameters
    ----------
    magnitude : float
        The paper's lambda.
    decay : float
        The paper's mu. ``train.optimizer.weight_decay`` is added to it.
    conditions : bool
        Whether there are conditions and embeddings. Without, this is FedPer with ``head.out`` personal.
    """

    magnitude: float
    decay: float
    conditions: bool

    name = "gpfl"
    own_networks = True

    def __post_init__(self) -> None:
        at_least(0, self, "magnitude", "decay")

    def check_task(self, kind: TaskKind) -> None:
        """Refuse tasks without classes."""
        needs_classes(self, kind, "learns an embedding for each class", "dbe")

    def extras(self, made: Made) -> nn.Module | None:
        """Return the embeddings, and the networks of scale and shift."""
        return Conditions(made.classes, made.features) if self.conditions else None

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put ``head.out`` into ``personal``, embeddings into ``task``, the rest into ``common``."""
        del model
        own: dict[str, Sequence[str]] = {}
        if self.conditions:
            own = {"common": ["extras.scale", "extras.shift"], "task": ["extras.classes"]}
        return with_rest_in(configured, "common", personal=[LAST_LAYER], **own)

    def train(self, site: SiteRound) -> None:
        """Train all parts with the losses of both conditions."""
        self._fit(site)

    def _fit(
        self, site: SiteRound, groups: Sequence[str] | None = None, epochs: int | None = None
    ) -> None:
        if not self.conditions:
            site.fit(groups=groups, epochs=epochs)
            return
        network = UnderBoth(site)
        embeddings = network.conditions.classes.weight

        def loss(given: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
            outputs, common = given
            angles = functional.normalize(common.float()) @ functional.normalize(embeddings).T
            distance = torch.linalg.vector_norm(common.float() - network.received[labels], dim=1)
            own: Tensor = site.loss(outputs, labels) + site.loss(angles, labels)
            apart: Tensor = self.magnitude * distance.mean()
            return own + apart

        decayed = list(network.conditions.parameters())

        def decay() -> Tensor:
            return 0.5 * self.decay * torch.stack([torch.sum(p**2) for p in decayed]).sum()

        site.fit(
            network=network,
            trained=site.trainable(groups),
            epochs=epochs,
            loss=Extended(site.loss, loss),
            penalty=decay if self.decay else None,
        )

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return the personal head over the features under the personal condition."""
        return Conditioned(site) if self.conditions else site.tail

    def deployed(self, site: SiteRound) -> Mapping[str, Tensor] | None:
        """Return None where features are conditioned; else the network alone predicts."""
        del site
        return None if self.conditions else {}

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune with all parts in their places."""
        self._fit(site, groups, epochs)
