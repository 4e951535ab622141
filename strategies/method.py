"""The base of all methods: a partition, a local objective, and an aggregator for each group.

A method is one file in ``strategies/methods/`` with one frozen dataclass. Its fields are the
hyper-parameters, with their values in ``conf/method/<name>.yaml``. The half that runs at a site gets
a `SiteRound`. The half that runs at the server checks updates and chooses aggregators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from torch import nn

from fedstrata.protocol.codings import Codings
from fedstrata.support.errors import UserError, nearest
from models.groups import FOUR_GROUPS, Group
from strategies.aggregators import Aggregator
from strategies.site_round import SiteRound

Groups = Mapping[str, Sequence[str]]


class Method:
    """Both halves of a method; subclasses are frozen dataclasses that override what differs."""

    name: ClassVar[str]
    needs_last_taken: ClassVar[bool] = False
    """Whether sites of a cohort, too, are told which of their updates was taken last."""

    # -- the partition ---------------------------------------------------------------------------

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Return the entries of each layer group on ``model``, given the configured ones."""
        del model
        return configured

    def known_groups(self) -> Mapping[str, Group]:
        """Return all groups by name; a method may add one for knowledge other than layers."""
        return FOUR_GROUPS

    def extras(self, network: nn.Sequential, classes: int) -> nn.Module | None:
        """Return modules that the method adds; they are named ``extras.*`` and grouped like layers."""
        del network, classes
        return None

    def trains_what_it_received(self, group: str) -> bool:
        """Return whether a site trains the tensors of ``group`` from their received values.

        That is true of layers, not of knowledge that a method computes from scratch each round.
        """
        # A lossy coding sends a difference to what was received. What it loses is added to the next
        # difference, and that corrects it only where the next one continues from this one.
        return group in FOUR_GROUPS

    # -- the site's half -------------------------------------------------------------------------

    def train(self, site: SiteRound) -> None:
        """Train the model of ``site`` in place; by default all trained groups at once."""
        site.fit()

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return the module that is evaluated, over inputs like those of ``site.train``."""
        return site.tail

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune ``groups`` of the final model in place, after the last round.

        A method with another :meth:`predictor` than ``site.tail`` fine-tunes that module.
        """
        site.fit(groups=groups, epochs=epochs)

    # -- the server's half -----------------------------------------------------------------------

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Return why an update after ``steps`` of ``planned`` steps is rejected, or None."""
        # A mean of whole and partial work favors the fast sites (Wang et al. 2020, FedNova).
        if steps < planned:
            return (
                f"did {steps} of {planned} steps: method {self.name} averages whole rounds only; "
                "method fedprox accepts partial work"
            )
        return None

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return the aggregator of ``group``: by default the configured one."""
        del group
        return configured()


def check_codings(method: Method, codings: Codings) -> None:
    """Raise UserError for a configured coding that a group of the method cannot have."""
    for key, chosen in (("coding", codings.up), ("coding_down", codings.down)):
        check_exchanged(method, f"strategy.{key}", chosen)
        for group, coding in chosen.items():
            where = f"strategy.{key}.{group}"
            if coding.lossy and not method.trains_what_it_received(group):
                raise UserError(
                    f"{where}={coding.name}: method {method.name} computes group {group!r} from "
                    "scratch each round, so later rounds cannot correct what a lossy coding loses; "
                    f"write {where}=exact"
                )


def check_exchanged(method: Method, where: str, groups: Iterable[str]) -> None:
    """Raise UserError if the settings at ``where`` name a group that is not exchanged."""
    known = method.known_groups()
    sent = [name for name, group in known.items() if group.exchanged]
    for group in groups:
        if group not in sent:
            why = "never leaves its site" if group in known else "does not exist"
            raise UserError(
                f"{where}.{group}: group {group!r} {why}; the exchanged groups are "
                f"{', '.join(sent)} (nearest: {nearest(group, sent)})"
            )


def with_rest_in(configured: Groups, group: str, **own: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return groups: the configured frozen layers, the entries in ``own``, the rest in ``group``.

    If ``...`` is frozen, the rest is whatever the configured groups name besides.
    """
    frozen = list(configured.get("pretrained", []))
    # A method decides who shares the trained layers. What is frozen is the user's choice.
    made: dict[str, Sequence[str]] = {"pretrained": frozen, **own}
    rest = ["..."]
    if "..." in frozen:
        taken = {entry for entries in made.values() for entry in entries}
        trained = [e for name in configured if name != "pretrained" for e in configured[name]]
        rest = [entry for entry in dict.fromkeys(trained) if entry not in taken]
    made[group] = [*made.get(group, []), *rest]
    return made
