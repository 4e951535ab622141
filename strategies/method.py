"""What a method of federated learning is: a partition, a local objective, an aggregator per group.

A method is one file in ``strategies/methods/`` with one frozen dataclass: its fields are its
hyper-parameters (given in ``conf/method/<name>.yaml``), its methods the two halves. The site's half
gets a :class:`SiteRound`; the server's half says what it accepts and how a group is aggregated.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedstrata.protocol.codings import Codings
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.options import read_options
from models.freezing import set_train_mode
from models.groups import FOUR_GROUPS, Group, Partition
from models.training.data import Split
from models.training.loop import FitReport, Loss, OptimizerState, Settings, fit, parameters_of
from strategies.aggregators import Aggregator

Groups = Mapping[str, Sequence[str]]


@dataclass
class SiteRound:
    """One round at one site, as a method's local half sees it.

    Parameters
    ----------
    model : nn.Module
        The whole model under the partition's tensor names, received and kept tensors loaded.
    network : nn.Sequential
        From inputs to logits; shares the tensors of ``model``.
    tail : nn.Module
        What runs over ``train.inputs``: the model without the frozen prefix whose outputs are
        cached, sharing the model's parameters; the whole model where nothing is cached.
    partition : Partition
        Which tensor belongs to which group.
    received : mapping of str to Tensor
        The exchanged tensors as they arrived, on the device; not to be changed.
    train : Split
        The training examples (features, where cached).
    classes : int
        Number of classes of the site's task.
    settings : Settings
        How to train, this round's learning rate included.
    loss : callable
        From logits and labels to a scalar, class weights included.
    generator : numpy.random.Generator
        Order and augmentation; seeded for this site and round.
    memory : dict of str to Tensor
        Tensors of the method's own that the site keeps from round to round and never sends.
    optimizer_state : mapping
        Optimiser state of the personal tensors, kept from round to round.
    most_steps : int or None
        The site's own limit on the steps of a round.
    """

    model: nn.Module
    network: nn.Sequential
    tail: nn.Module
    partition: Partition
    received: Mapping[str, Tensor]
    train: Split
    classes: int
    settings: Settings
    loss: Loss
    generator: np.random.Generator
    device: torch.device
    memory: dict[str, Tensor]
    optimizer_state: OptimizerState
    most_steps: int | None
    fits: list[FitReport] = field(default_factory=list)

    def trainable(self, groups: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
        """Return the parameters of ``groups`` by name; of every trained group when omitted."""
        known = self.partition.groups
        wanted = [g for g in known if known[g].trained] if groups is None else list(groups)
        names = [name for group in wanted for name in self.partition.names(group)]
        return parameters_of(self.model, names)

    def exchanged(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters that leave the site, by name."""
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
        """Train in place, once through the configured epochs or steps, and note what was done.

        Parameters
        ----------
        groups : sequence of str, optional
            Train these groups alone; everything else stands still, its BatchNorm included.
        network, trained : optional
            Another module than ``tail``, and its parameters, such as a personal second model.
        epochs : int, optional
            Instead of the configured epochs or steps.
        loss, penalty : callable, optional
            Instead of the site's loss; a scalar added to it.
        """
        parameters = dict(trained) if trained is not None else self.trainable(groups)
        settings = self.settings
        if epochs is not None:
            settings = replace(settings, epochs=epochs, steps=None)
        left = None
        if self.most_steps is not None:
            left = max(self.most_steps - sum(f.steps for f in self.fits), 0)
        if network is None:
            self.set_modes(set(parameters))
        kept = {n: s for n, s in self.optimizer_state.items() if n in parameters}
        report = fit(
            self.tail if network is None else network,
            self.train,
            settings,
            trained=parameters,
            generator=self.generator,
            device=self.device,
            loss=loss or self.loss,
            penalty=penalty,
            optimizer_state=kept,
            most_steps=left,
        )
        self.fits.append(report)
        staying = set(self.partition.kept_names())
        self.optimizer_state.update({n: s for n, s in kept.items() if n in staying})
        return report

    def set_modes(self, trained: set[str]) -> None:
        """Put modules in train mode, but those that own tensors and train none in eval mode."""
        self.model.train()
        set_train_mode(self.network, self.partition)
        for prefix, module in self.model.named_modules():
            own = [name for name, _ in module.named_parameters(prefix, recurse=False)]
            if own and not trained.intersection(own):
                module.eval()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)


class Method:
    """A method, both halves; subclasses are frozen dataclasses and override what differs."""

    name: ClassVar[str]

    # -- the partition ---------------------------------------------------------------------------

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Return the layer groups the method uses on ``model``, given the configured ones."""
        del model
        return configured

    def kinds(self) -> Mapping[str, Group]:
        """Return the groups there are; a method may add one, for what it exchanges besides layers."""
        return FOUR_GROUPS

    def extras(self, network: nn.Sequential, classes: int) -> nn.Module | None:
        """Return modules of the method's own, held as ``extras`` and grouped like any layer."""
        del network, classes
        return None

    def differs(self, group: str) -> bool:
        """Return whether what leaves the site in ``group`` is what it received there, trained on.

        Only then can a lossy coding of the difference be made up for by the next one. Here it is
        what is true of layers; not of what a method adds and makes anew each round.
        """
        return group in FOUR_GROUPS

    # -- the site's half -------------------------------------------------------------------------

    def train(self, site: SiteRound) -> None:
        """Train the model of ``site`` in place: here, everything that is not frozen together."""
        site.fit()

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return what answers for the site when it is evaluated, over ``site.train``-like inputs."""
        return site.tail

    def tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune ``groups`` of the final model in place, after the last round.

        A method whose :meth:`predictor` answers with another module than ``site.tail`` tunes that.
        """
        site.fit(groups=groups, epochs=epochs)

    # -- the server's half -----------------------------------------------------------------------

    def refuses(self, steps: int, planned: int) -> str | None:
        """Return why an update of ``steps`` of ``planned`` steps is not taken, or None."""
        if steps < planned:
            return (
                f"did {steps} of {planned} steps: method {self.name} averages whole rounds only; "
                "method fedprox takes partial work"
            )
        return None

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return the aggregator of ``group``: the configured one, unless the method brings its own."""
        del group
        return configured()


@cache
def registry() -> dict[str, type[Method]]:
    """Return the methods of ``strategies/methods/`` by name; the folder alone decides what exists."""
    package = importlib.import_module("strategies.methods")
    found: dict[str, type[Method]] = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"strategies.methods.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and "name" in vars(value):
                found[value.name] = value
    return found


def make_method(options: Mapping[str, Any]) -> Method:
    """Return the method that ``options`` names, with its hyper-parameters.

    Raises
    ------
    UserError
        For an unknown method or hyper-parameter, with those that exist.
    """
    name = str(options.get("name"))
    known = registry()
    if name not in known:
        raise UserError(
            f"method {name!r} does not exist; there are: {', '.join(sorted(known))} "
            f"(nearest: {nearest(name, known)})"
        )
    rest = {key: value for key, value in options.items() if key != "name"}
    return read_options(known[name], rest, "method")


def check_codings(method: Method, codings: Codings) -> None:
    """Raise UserError where a configured coding cannot be that of a group of the method."""
    for way, chosen in (("coding", codings.up), ("coding_down", codings.down)):
        check_travels(method, f"strategy.{way}", chosen)
        for group, coding in chosen.items():
            where = f"strategy.{way}.{group}"
            if coding.lossy and not method.differs(group):
                raise UserError(
                    f"{where}={coding.name}: method {method.name} makes what it sends in group "
                    f"{group!r} anew each round, so what the coding loses of a difference cannot "
                    f"be made up for later; write {where}=exact"
                )


def check_travels(method: Method, where: str, groups: Iterable[str]) -> None:
    """Raise UserError where a setting, whose place is ``where``, is of a group that never travels."""
    kinds = method.kinds()
    sent = [name for name, group in kinds.items() if group.exchanged]
    for group in groups:
        if group not in sent:
            why = "never leaves its site" if group in kinds else "does not exist"
            raise UserError(
                f"{where}.{group}: group {group!r} {why}; groups that travel are {', '.join(sent)} "
                f"(nearest: {nearest(group, sent)})"
            )


def everything_else(
    configured: Groups, group: str, **own: Sequence[str]
) -> dict[str, Sequence[str]]:
    """Return groups that keep what is frozen, take ``own``, and put the rest into ``group``.

    Where ``...`` is frozen, the rest is what the configured groups name besides.
    """
    frozen = list(configured.get("pretrained", []))
    made: dict[str, Sequence[str]] = {"pretrained": frozen, **own}
    rest = ["..."]
    if "..." in frozen:
        taken = {entry for entries in made.values() for entry in entries}
        trained = [e for name in configured if name != "pretrained" for e in configured[name]]
        rest = [entry for entry in dict.fromkeys(trained) if entry not in taken]
    made[group] = [*made.get(group, []), *rest]
    return made
