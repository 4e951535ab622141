"""What a method of federated learning is: a partition, a local objective, an aggregator per group.

A method is one file in ``strategies/methods/`` with one frozen dataclass: its fields are its
hyper-parameters (given in ``conf/method/<name>.yaml``), its methods the two halves. The site's half
gets a :class:`SiteRound`; the server's half says what it accepts and how a group is aggregated.
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
    """A method, both halves; subclasses are frozen dataclasses and override what differs."""

    name: ClassVar[str]

    # -- the partition ---------------------------------------------------------------------------

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Return the layer groups the method uses on ``model``, given the configured ones."""
        del model
        return configured

    def known_groups(self) -> Mapping[str, Group]:
        """Return the groups there are; a method may add one, for what it exchanges besides layers."""
        return FOUR_GROUPS

    def extras(self, network: nn.Sequential, classes: int) -> nn.Module | None:
        """Return modules of the method's own, held as ``extras`` and grouped like any layer."""
        del network, classes
        return None

    def trains_what_it_received(self, group: str) -> bool:
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

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune ``groups`` of the final model in place, after the last round.

        A method whose :meth:`predictor` answers with another module than ``site.tail`` tunes that.
        """
        site.fit(groups=groups, epochs=epochs)

    # -- the server's half -----------------------------------------------------------------------

    def reject_reason(self, steps: int, planned: int) -> str | None:
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


def check_codings(method: Method, codings: Codings) -> None:
    """Raise UserError where a configured coding cannot be that of a group of the method."""
    for way, chosen in (("coding", codings.up), ("coding_down", codings.down)):
        check_exchanged(method, f"strategy.{way}", chosen)
        for group, coding in chosen.items():
            where = f"strategy.{way}.{group}"
            if coding.lossy and not method.trains_what_it_received(group):
                raise UserError(
                    f"{where}={coding.name}: method {method.name} makes what it sends in group "
                    f"{group!r} anew each round, so what the coding loses of a difference cannot "
                    f"be made up for later; write {where}=exact"
                )


def check_exchanged(method: Method, where: str, groups: Iterable[str]) -> None:
    """Raise UserError where a setting, whose place is ``where``, is of a group that never travels."""
    kinds = method.known_groups()
    sent = [name for name, group in kinds.items() if group.exchanged]
    for group in groups:
        if group not in sent:
            why = "never leaves its site" if group in kinds else "does not exist"
            raise UserError(
                f"{where}.{group}: group {group!r} {why}; groups that travel are {', '.join(sent)} "
                f"(nearest: {nearest(group, sent)})"
            )


def with_rest_in(configured: Groups, group: str, **own: Sequence[str]) -> dict[str, Sequence[str]]:
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
