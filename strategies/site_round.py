"""One round at one site, as the local half of a method sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from models.freezing import set_train_mode
from models.groups import Partition
from models.training.data import Split
from models.training.loop import FitReport, FitSettings, Loss, OptimizerState, fit, parameters_of


@dataclass
class SiteRound:
    """What a method works on at a site: the model, the data, and how to train.

    Parameters
    ----------
    model : nn.Module
        The whole model under the partition's tensor names, received and kept tensors loaded.
    network : nn.Sequential
        From inputs to logits; shares the tensors of ``model``.
    tail : nn.Module
        The part that takes ``train.inputs``: the model without its frozen prefix if the outputs of
        that are cached, else the whole model. It shares the parameters of ``model``.
    partition : Partition
        Which tensor belongs to which group.
    received : mapping of str to Tensor
        The exchanged tensors as received, on the device; not to be changed.
    train : Split
        The training examples, or their features if those are cached.
    classes : int
        Number of classes of the site's task.
    settings : FitSettings
        How to train, this round's learning rate included.
    loss : callable
        From logits and labels to a scalar, class weights included.
    generator : numpy.random.Generator
        For the order of examples and augmentation; seeded for this site and round.
    memory : dict of str to Tensor
        Tensors that the method keeps at the site from round to round; they are never sent.
    optimizer_state : mapping
        Optimizer state of the personal tensors, kept from round to round.
    max_steps : int or None
        The limit of the site on the steps of a round.
    """

    model: nn.Module
    network: nn.Sequential
    tail: nn.Module
    partition: Partition
    received: Mapping[str, Tensor]
    train: Split
    classes: int
    settings: FitSettings
    loss: Loss
    generator: np.random.Generator
    device: torch.device
    memory: dict[str, Tensor]
    optimizer_state: OptimizerState
    max_steps: int | None
    fits: list[FitReport] = field(default_factory=list)

    def trainable(self, groups: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
        """Return the parameters of ``groups`` by name; of all trained groups by default."""
        known = self.partition.groups
        wanted = [g for g in known if known[g].trained] if groups is None else list(groups)
        names = [name for group in wanted for name in self.partition.names(group)]
        return parameters_of(self.model, names)

    def exchanged(self) -> dict[str, nn.Parameter]:
        """Return the parameters of exchanged groups, by name."""
        return self.trainable(self.partition.exchanged_groups())

    def fit(
        self,
        *,
        groups: Sequence[str] | None = None,
        network: nn.Module | None = None,
        trained: Mapping[str, nn.Parameter] | None = None,
        epochs: int | None = None,
        loss: Loss | None = None,
        penalty: Callable[[], Tensor] | None = None,
    ) -> FitReport:
        """Train in place for the configured epochs or steps, and add the report to ``fits``.

        Parameters
        ----------
        groups : sequence of str, optional
            Train only these groups; all others stay as they are, running statistics included.
        network, trained : optional
            Another module than ``tail``, and its parameters, such as a second, personal model.
        epochs : int, optional
            Instead of the configured epochs or steps.
        loss : callable, optional
            Instead of the site's loss.
        penalty : callable, optional
            A scalar added to the loss of every step.
        """
        parameters = dict(trained) if trained is not None else self.trainable(groups)
        settings = self.settings
        if epochs is not None:
            settings = settings.for_epochs(epochs)
        left = None
        if self.max_steps is not None:
            # The limit is for the round, in which a method may fit several times.
            left = max(self.max_steps - sum(f.steps for f in self.fits), 0)
        if network is None:
            self.set_modes(set(parameters))
        state = {n: s for n, s in self.optimizer_state.items() if n in parameters}
        report = fit(
            self.tail if network is None else network,
            self.train,
            settings,
            trained=parameters,
            generator=self.generator,
            device=self.device,
            loss=loss or self.loss,
            penalty=penalty,
            optimizer_state=state,
            max_steps=left,
        )
        self.fits.append(report)
        # Exchanged tensors are replaced by the next round's: the momentum of the old ones is stale.
        personal = set(self.partition.kept_names())
        self.optimizer_state.update({n: s for n, s in state.items() if n in personal})
        return report

    def set_modes(self, trained: set[str]) -> None:
        """Set train mode, except for modules with parameters of which none is in ``trained``."""
        self.model.train()
        set_train_mode(self.network, self.partition)
        for prefix, module in self.model.named_modules():
            own = [name for name, _ in module.named_parameters(prefix, recurse=False)]
            if own and not trained.intersection(own):
                module.eval()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
