"""One round at one site, as the local half of a method sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from fedstrata.support.errors import UserError
from models.freezing import set_train_mode, split_before
from models.groups import Partition
from models.training.data import Split
from models.training.loop import FitReport, FitSettings, Loss, OptimizerState, fit, parameters_of

LAST_LAYER = "head.out"


@dataclass
class SiteRound:
    """What a method works on at a site: the model, the data, and how to train.

    Parameters
    ----------
    model : nn.Module
        The whole model under the partition's tensor names, received and kept tensors loaded.
    network : nn.Sequential
        From inputs to logits; shares the tensors of ``model``.
    tail : nn.Sequential
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
    number, rounds : int
        The round, from 1 (0 before the rounds), and how many are planned.
    last_taken : int
        The round of the site's last update that the server took; 0 for none.
    compiled : nn.Module or None
        ``tail`` as compiled by torch, where that is configured. It runs instead of ``tail``; parts
        and copies are made of ``tail`` itself.
    picture_scale : tuple of two tuples of float
        Mean and deviation with which the site normalizes pictures, one or one per channel.
    """

    model: nn.Module
    network: nn.Sequential
    tail: nn.Sequential
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
    number: int = 1
    rounds: int = 1
    last_taken: int = 0
    compiled: nn.Module | None = None
    picture_scale: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))
    fits: list[FitReport] = field(default_factory=list)

    # -- the parts of the model ------------------------------------------------------------------

    def trainable(self, groups: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
        """Return the parameters of ``groups`` by name; of all trained groups by default."""
        known = self.partition.groups
        wanted = [g for g in known if known[g].trained] if groups is None else list(groups)
        names = [name for group in wanted for name in self.partition.names(group)]
        return parameters_of(self.model, names)

    def exchanged(self) -> dict[str, nn.Parameter]:
        """Return the parameters of exchanged groups, by name."""
        return self.trainable(self.partition.exchanged_groups())

    @property
    def extras(self) -> nn.Module:
        """The modules that the method added."""
        return self.model.get_submodule("extras")

    @property
    def body(self) -> nn.Sequential:
        """``tail`` up to its last layer: ``out(body(x)) == tail(x)``; shares its modules."""
        return self._last_layer[0]

    @property
    def out(self) -> nn.Sequential:
        """The last layer of ``tail``, which takes what ``body`` gives."""
        return self._last_layer[1]

    @cached_property
    def _last_layer(self) -> tuple[nn.Sequential, nn.Sequential]:
        return self.cut(LAST_LAYER)

    def cut(self, before: str) -> tuple[nn.Sequential, nn.Sequential]:
        """Return the parts of ``tail`` before the module at that path, and from it on.

        Raises
        ------
        UserError
            Where ``tail`` has no such module, or it is frozen with all before it.
        """
        try:
            return split_before(self.tail, before)
        except ValueError as error:
            raise UserError(f"the trained part of the model cannot be cut: {error}") from None

    def as_inputs(self, pictures: Tensor) -> Tensor:
        """Return pictures ``(b, c, h, w)`` of 0 to 1 as the site's network takes its own."""
        mean, std = (pictures.new_tensor(each)[:, None, None] for each in self.picture_scale)
        return (pictures - mean) / std

    # -- a second model --------------------------------------------------------------------------

    def second(self, name: str) -> nn.Sequential:
        """Return a copy of ``tail`` with the tensors that `remember` kept under ``name``.

        Without any it is a copy of the model as it is now. It is on the device, and of no graph.

        Raises
        ------
        UserError
            Where the kept tensors are of another model.
        """
        copied = copy.deepcopy(self.tail)
        own = copied.state_dict()
        for key, kept in self.kept(name).items():
            if key not in own or own[key].shape != kept.shape:
                raise UserError(
                    f"the second model {name!r} kept at this site is of another model; start a new "
                    "run instead of resuming this one"
                )
            own[key].copy_(kept)
        return copied

    def kept(self, name: str) -> dict[str, Tensor]:
        """Return the tensors kept under ``name``, on the device; empty where there are none."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): tensor.to(self.device)
            for key, tensor in self.memory.items()
            if key.startswith(prefix)
        }

    def remember(self, name: str, tensors: nn.Module | Mapping[str, Tensor]) -> None:
        """Keep copies of tensors at the site under ``name``, instead of those of before.

        Of a module these are its state, without what is frozen: that is in the model itself.
        """
        if isinstance(tensors, nn.Module):
            tensors = {n: t for n, t in tensors.state_dict().items() if not self._is_frozen(n)}
        for key in [key for key in self.memory if key.startswith(f"{name}.")]:
            del self.memory[key]
        self.memory.update({f"{name}.{n}": t.detach().clone() for n, t in tensors.items()})

    def _is_frozen(self, name: str) -> bool:
        group = self.partition.group_of.get(name)
        return group is not None and not self.partition.groups[group].trained

    # -- training --------------------------------------------------------------------------------

    def fit(
        self,
        *,
        groups: Sequence[str] | None = None,
        network: nn.Module | None = None,
        trained: Mapping[str, nn.Parameter] | None = None,
        epochs: int | None = None,
        settings: FitSettings | None = None,
        split: Split | None = None,
        loss: Loss | None = None,
        penalty: Callable[[], Tensor] | None = None,
        after_step: Callable[[], None] | None = None,
        clipped: Sequence[Sequence[nn.Parameter]] | None = None,
    ) -> FitReport:
        """Train in place for the configured epochs or steps, and add the report to ``fits``.

        Parameters
        ----------
        groups : sequence of str, optional
            Train only these groups; all others stay as they are, running statistics included.
        network : nn.Module, optional
            Another module than ``tail``: a second model, or one that runs parts of ``tail``. Modules
            of which nothing is trained are in eval mode.
        trained : mapping of str to nn.Parameter, optional
            The parameters to train instead of those of ``groups``. Optimizer state of names that are
            not in the partition is kept at the site, as that of personal layers is.
        epochs : int, optional
            Instead of the configured epochs or steps.
        settings : FitSettings, optional
            Instead of the round's.
        split : Split, optional
            Instead of all training examples.
        loss : callable, optional
            Instead of the site's loss; it takes whatever the network gives.
        penalty : callable, optional
            A scalar added to the loss of every step.
        after_step : callable, optional
            Called after every step.
        clipped : sequence of sequences of nn.Parameter, optional
            Sets of parameters of which each is clipped by itself, instead of all together.
        """
        parameters = dict(trained) if trained is not None else self.trainable(groups)
        chosen = settings or self.settings
        if epochs is not None:
            chosen = chosen.for_epochs(epochs)
        left = None
        if self.max_steps is not None:
            # The limit is for the round, in which a method may fit several times.
            left = max(self.max_steps - sum(f.steps for f in self.fits), 0)
        self._set_modes(network, parameters)
        state = {n: s for n, s in self.optimizer_state.items() if n in parameters}
        report = fit(
            (self.compiled or self.tail) if network is None else network,
            self.train if split is None else split,
            chosen,
            trained=parameters,
            generator=self.generator,
            device=self.device,
            loss=loss or self.loss,
            penalty=penalty,
            after_step=after_step,
            clipped=clipped,
            optimizer_state=state,
            max_steps=left,
        )
        self.fits.append(report)
        # Exchanged tensors are replaced by the next round's: the momentum of the old ones is stale.
        sent = self.partition.group_of.keys() - set(self.partition.kept_names())
        self.optimizer_state.update({n: s for n, s in state.items() if n not in sent})
        return report

    @contextmanager
    def same_draws(self) -> Iterator[None]:
        """Give the random numbers that are drawn inside once more to what comes afterwards.

        So two models of a method train on the same batches.
        """
        before = self.generator.bit_generator.state
        with torch.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device]):
            yield
        self.generator.bit_generator.state = before

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

    def _set_modes(self, network: nn.Module | None, trained: Mapping[str, nn.Parameter]) -> None:
        """Set the modes for a fit of ``network``, which may have modules beside the model's."""
        ids = {id(parameter) for parameter in trained.values()}
        ours = {id(module) for module in self.model.modules()}
        modules = [] if network is None else list(network.modules())
        others = [module for module in modules if id(module) not in ours]
        if network is None or len(others) < len(modules):
            self.set_modes({name for name, p in self.model.named_parameters() if id(p) in ids})
        if network is None:
            return
        # A copy of the tail has its names: what is frozen there is frozen in the copy.
        if len(others) == len(modules) and network.state_dict().keys() <= set(
            self.tail.state_dict()
        ):
            set_train_mode(network, self.partition)
        for module in others:
            own = [id(parameter) for parameter in module.parameters(recurse=False)]
            if own and not ids.intersection(own):
                module.training = False
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in ids)
        for parameter in trained.values():  # that are in no module of the network
            parameter.requires_grad_(True)
