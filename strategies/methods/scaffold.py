"""SCAFFOLD: control variates correct each step of a site for how its gradients differ from all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedstrata.protocol.plan import TrainConfig
from fedstrata.support.errors import UserError
from models.groups import FOUR_GROUPS, Group, Scope, partition_tensors
from strategies.aggregators import Aggregator
from strategies.aggregators.control_variates import ControlVariates
from strategies.method import Groups, Made, Method
from strategies.site_round import SiteRound

OWN, BEFORE, ROUND = "control", "control-before", "control-round"
CONTROL, CONTROL_TASK = "control", "control_task"
OF_SCOPE = {Scope.ALL_SITES: CONTROL, Scope.SAME_TASK: CONTROL_TASK}


class Controls(nn.Module):
    """The control variate c of the server: a buffer for each parameter, 0 in the beginning."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_buffer(buffer_name(name), torch.zeros_like(parameter))


def buffer_name(parameter: str) -> str:
    """Return how the buffer of a parameter is called: a name of a buffer has no dots."""
    return parameter.replace(".", "/")


@dataclass(frozen=True)
class Scaffold(Method):
    """Karimireddy et al. 2020, algorithm 1 with option II (arXiv:1910.06378).

    A step at site i is ``y -= lr * (gradient - c_i + c)``. After K steps from x it has
    ``c_i' = c_i - c + (x - y) / (K * lr)``, and sends ``c + c_i' - c_i``, of which the server makes
    ``c += share * (mean - c)``. The share is that of the answering sites in the examples of all
    (in the paper: in their number, for sites of equal weight).

    c_i counts only if the server took the update: otherwise the site goes back to the c_i before.
    """

    name = "scaffold"

    def known_groups(self) -> Mapping[str, Group]:
        """Return the four groups, and the control variates of common and of task layers."""
        control = {name: Group(name, scope, knowledge=True) for scope, name in OF_SCOPE.items()}
        return {**FOUR_GROUPS, **control}

    def extras(self, made: Made) -> nn.Module:
        """Return a buffer for each parameter that is exchanged."""
        parameters = dict(made.network.named_parameters())
        scopes = _scopes(made.network, made.groups)
        return Controls({n: p for n, p in parameters.items() if scopes[n] in OF_SCOPE})

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Keep the configured groups, and give each control variate the scope of its layer."""
        control: dict[str, list[str]] = {name: [] for name in OF_SCOPE.values()}
        own = [f"extras.{name}" for name in dict(model.get_submodule("extras").named_buffers())]
        for name, scope in _scopes(model, {**configured, CONTROL: own}).items():
            if scope in OF_SCOPE:
                control[OF_SCOPE[scope]].append(f"extras.{buffer_name(name)}")
        return {**configured, **control}

    def check_training(self, train: TrainConfig) -> tuple[str, ...]:
        """Refuse adaptive optimizers; say that momentum breaks the method's assumption."""
        optimizer = train.optimizer
        if optimizer.name != "sgd":
            raise UserError(
                f"method=scaffold computes its control variates from plain SGD steps, and "
                f"train.optimizer.name={optimizer.name} takes others: write train.optimizer.name=sgd"
            )
        if optimizer.momentum:
            return (
                "method=scaffold: the steps are taken as gradients times the learning rate, and "
                f"train.optimizer.momentum={optimizer.momentum:g} makes them up to "
                f"{1 / (1 - optimizer.momentum):.3g} times as large; 0 is the method of the paper",
            )
        return ()

    def train(self, site: SiteRound) -> None:
        """Train with corrected gradients, and note what the control variate becomes."""
        layers = site.exchanged()
        c = {name: site.received[f"extras.{buffer_name(name)}"] for name in layers}
        own = self._own(site, c)
        pairs = [(layers[name], c[name] - own[name]) for name in layers]

        def correction() -> Tensor:
            # Its gradient is c - c_i and its value 0: the loss that a site reports is that of its data,
            # and the server refuses a negative one.
            return torch.stack([torch.sum((w - w.detach()) * d) for w, d in pairs]).sum()

        report = site.fit(penalty=correction if pairs else None)
        length = report.steps * site.settings.lr
        if not length:
            return
        after = {
            name: own[name] - c[name] + (site.received[name] - w.detach()) / length
            for name, w in layers.items()
        }
        buffers = dict(site.extras.named_buffers())
        with torch.no_grad():
            for name in layers:
                buffers[buffer_name(name)].copy_(c[name] + (after[name] - own[name]))
        site.remember(BEFORE, own)
        site.remember(OWN, after)
        site.memory[ROUND] = torch.tensor(site.number)

    def _own(self, site: SiteRound, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return c_i as it was after the last update of the site that counted; 0 before the first."""
        made = int(site.memory.get(ROUND, torch.tensor(0)))
        # Where the file of a later round is lost, what is there is nearest to it.
        kept = site.kept(OWN if made <= site.last_taken else BEFORE)
        return {name: kept.get(name, torch.zeros_like(c)) for name, c in like.items()}

    def trains_what_it_received(self, group: str) -> bool:
        """Return True: control variates, too, are sent as a change of what was received."""
        del group
        return True

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return how c changes, for control variates; the configured one for layers."""
        return ControlVariates() if group in OF_SCOPE.values() else configured()


def _scopes(model: nn.Module, groups: Groups) -> dict[str, Scope]:
    """Return the scope of each parameter of ``model`` by name."""
    known = Scaffold().known_groups()
    there = {name: entries for name, entries in groups.items() if entries}
    made = partition_tensors(model, there, known)
    return {name: made.group(made.group_of[name]).scope for name, _ in model.named_parameters()}
