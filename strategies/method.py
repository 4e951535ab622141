"""The base of all methods: a partition, a local objective, and an aggregator for each group.

A method is one file in ``strategies/methods/`` with one frozen dataclass. Its fields are the
hyper-parameters, with their values in ``conf/method/<name>.yaml``. The half that runs at a site gets
a `SiteRound`. The half that runs at the server checks updates and chooses aggregators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from fedstrata.protocol.codings import Codings
from fedstrata.protocol.plan import TrainConfig
from fedstrata.protocol.task_kinds import CLASSES, TaskKind
from fedstrata.support.errors import UserError, nearest
from models.groups import FOUR_GROUPS, Group, Partition
from strategies.aggregators import Aggregator
from strategies.aggregators.base import require
from strategies.site_round import LAST_LAYER, SiteRound

Groups = Mapping[str, Sequence[str]]
Penalty = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Made:
    """The network of a task as it was built, for which a method makes modules of its own.

    Parameters
    ----------
    network : nn.Sequential
        From inputs to outputs, float32 ``(b, classes)``.
    input_shape : tuple of int
        Shape of one input.
    classes : int
        Number of outputs of the task.
    groups : mapping of str to sequence of str
        The configured entries of each layer group.
    models_dir : Path or None
        Where this machine has the folders of models that a plan may name.
    name : str
        The network's name, of `models.networks.MODELS`.
    seed : int
        For modules that must start alike at sites whose networks differ.
    """

    network: nn.Sequential
    input_shape: tuple[int, ...]
    classes: int
    groups: Groups
    models_dir: Path | None = None
    name: str = ""
    seed: int = 0

    @property
    def features(self) -> int:
        """The width of what enters the last layer, ``head.out``."""
        last = self.network.get_submodule(LAST_LAYER)
        assert isinstance(last, nn.Linear)
        return last.in_features


class Method:
    """Both halves of a method; subclasses are frozen dataclasses that override what differs."""

    name: ClassVar[str]
    predicts_with_received: ClassVar[bool] = True
    """Whether other layers that arrive make a site predict otherwise."""
    own_networks: ClassVar[bool] = False
    """Whether it also runs networks of its own, which ``train.compile`` leaves as they are."""
    needs_inputs: ClassVar[bool] = False
    """Whether one of them sees the inputs themselves: outputs of frozen layers are not cached then."""
    measures_memory: ClassVar[bool] = True
    """Whether a `receive` or `predictor` of its own may read what the site has in memory."""
    tunes: ClassVar[tuple[str, ...]] = ()
    """The groups of which fine-tuning needs one, where it does not tune all that are named."""

    # -- the partition ---------------------------------------------------------------------------

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Return the entries of each layer group on ``model``, given the configured ones."""
        del model
        return configured

    def known_groups(self) -> Mapping[str, Group]:
        """Return all groups by name; a method may add one for knowledge other than layers."""
        return FOUR_GROUPS

    def extras(self, made: Made) -> nn.Module | None:
        """Return modules that the method adds; they are named ``extras.*`` and grouped like layers.

        Parameters are trained, buffers hold knowledge. Where they are in the way from inputs to
        outputs, `train`, `predictor` and `fine_tune` run them there.
        """
        del made
        return None

    def trains_what_it_received(self, group: str) -> bool:
        """Return whether a site trains the tensors of ``group`` from their received values.

        That is true of layers, not of knowledge that a method computes from scratch each round.
        """
        # A lossy coding sends a difference to what was received. What it loses is added to the next
        # difference, and that corrects it only where the next one continues from this one.
        return group in FOUR_GROUPS

    def judges_values(self, group: str) -> bool:
        """Return whether ``strategy.bounds`` judges the norm of what a site sends in ``group``.

        Of layers it is the norm of their change. Of knowledge that a method computes from scratch it is
        that of the tensors themselves, where sites send what is alike in size.
        """
        del group
        return False

    def opening(self) -> tuple[str, ...]:
        """Return the groups of knowledge that all sites send once, before round 1; see `open`.

        They reach the sites in every round, and do not change any more.
        """
        return ()

    def sent_groups(self, partition: Partition) -> tuple[str, ...]:
        """Return the groups that a site sends after each round.

        These are all exchanged ones, without those of `opening` and those that go down only.
        """
        once = self.opening()
        return tuple(group for group in partition.leaving_groups() if group not in once)

    def check_training(self, train: TrainConfig) -> tuple[str, ...]:
        """Return what the log is to say of training so with this method.

        Raises
        ------
        UserError
            Where the method cannot train so.
        """
        del train
        return ()

    def check_task(self, kind: TaskKind) -> None:
        """Raise UserError where the method cannot train a task of ``kind``; a site asks as it joins."""
        del kind

    # -- the site's half -------------------------------------------------------------------------

    def open(self, site: SiteRound) -> None:
        """Before round 1, put what the site knows into its tensors of the groups of `opening`.

        The server averages them by examples. Nothing else of what happens to the model is kept.
        """
        raise NotImplementedError(f"{self.name} has an opening, and says nothing in it")

    def receive(self, site: SiteRound) -> None:
        """Change the model once it is loaded, before it is measured and trained; by default not.

        It runs for every order that measures, trains or fine-tunes, and must do the same each time.
        """

    def penalty(self) -> Penalty | None:
        """Return what `train` adds to the loss of every step, or None.

        It gets a site's parameters of exchanged groups and what arrived of them, both by name, and
        returns a scalar. The sites of a cohort may be computed as one: so it is a function of these
        alone.
        """
        return None

    def train(self, site: SiteRound) -> None:
        """Train the model of ``site`` in place; by default all trained groups at once."""
        added, own = self.penalty(), site.exchanged()
        if added is None or not own:
            site.fit()
            return
        site.fit(penalty=lambda: added(own, site.received))

    def trains_as_one(self) -> bool:
        """Return whether `train` fits all trained groups with `penalty`, and does nothing else.

        The sites of a cohort can be trained as one computation then.
        """
        return type(self).train is Method.train

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return the module that is evaluated, over inputs like those of ``site.train``.

        It changes nothing: it may be asked for more than once in a round.
        """
        return site.tail

    def deployed(self, site: SiteRound) -> Mapping[str, Tensor] | None:
        """Return tensors by the network's names with which it alone predicts as `predictor` does.

        All others are those of ``site.model``. None where it takes more than the network.
        """
        return {} if type(self).predictor is Method.predictor else None

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
        """Return the aggregator of ``group``: by default the configured one.

        A group that goes down only has a `strategies.aggregators.teacher.Teacher`.
        """
        del group
        return configured()


def check_crossing(method: Method, cross_site: str) -> None:
    """Raise UserError where other sites' layers would travel and change no measure."""
    if cross_site == "updates" and not method.predicts_with_received:
        raise UserError(
            f"cross_site=updates: with method {method.name} a site predicts with a model of its own, "
            "so the layers of other sites would travel and change nothing: write cross_site=none"
        )


def check_halves(method: Method, *, tuned: bool) -> None:
    """Raise UserError where a method's halves do not go together.

    Parameters
    ----------
    method : Method
        The method.
    tuned : bool
        Whether sites fine-tune after the last round (``deployment.epochs``).
    """
    kind = type(method)
    if tuned and kind.predictor is not Method.predictor and kind.fine_tune is Method.fine_tune:
        raise UserError(
            f"deployment.epochs: method {method.name} predicts with another model than it would "
            "fine-tune, for it has a predictor and no fine_tune of its own: write "
            "deployment.epochs=0, or choose another method"
        )


def at_least(least: int, method: Method, *names: str) -> None:
    """Raise UserError for a named setting of ``method`` that is below ``least``."""
    for name in names:
        value = getattr(method, name)
        require(value >= least, f"method.{name}", f"{least} or greater", value)


def above_zero(method: Method, *names: str) -> None:
    """Raise UserError for a named setting of ``method`` that is not above 0."""
    for name in names:
        value = getattr(method, name)
        require(value > 0, f"method.{name}", "above 0", value)


def needs_classes(method: Method, kind: TaskKind, does: str, instead: str = "lg_fedavg") -> None:
    """Raise UserError unless exactly one of several classes holds in a task of ``kind``.

    Parameters
    ----------
    method : Method
        The one that needs them.
    kind : TaskKind
        Of the task.
    does : str
        What the method does with classes, for the text: ``makes a picture of each class``.
    instead : str
        A method that needs no classes.
    """
    if kind.name != CLASSES:
        raise UserError(
            f"method={method.name} {does}, and a task of kind {kind.name} has none: choose a method "
            f"that needs no classes, such as method={instead}"
        )


def remarks(method: Method, train: TrainConfig, *, frozen: bool = False) -> tuple[str, ...]:
    """Return what the log says of training so with ``method``; raise UserError where it cannot be.

    ``frozen`` is whether a network has frozen layers.
    """
    said = method.check_training(train)
    if frozen and train.cache_features and method.needs_inputs:
        said += (
            f"train.cache_features=true: method {method.name} has a network that sees the inputs "
            "themselves, so the outputs of frozen layers are not cached but computed in every step",
        )
    if train.compile and method.own_networks:
        said += (
            f"train.compile=true: method {method.name} also runs networks of its own, and these are "
            "not compiled",
        )
    return said


def check_codings(method: Method, codings: Codings) -> None:
    """Raise UserError for a configured coding that a group of the method cannot have."""
    for key, chosen in (("coding", codings.up), ("coding_down", codings.down)):
        check_exchanged(method, f"strategy.{key}", chosen, down=key == "coding_down")
        for group, coding in chosen.items():
            where = f"strategy.{key}.{group}"
            if coding.lossy and not method.trains_what_it_received(group):
                raise UserError(
                    f"{where}={coding.name}: method {method.name} computes group {group!r} from "
                    "scratch each round, so later rounds cannot correct what a lossy coding loses; "
                    f"write {where}=exact"
                )


def check_exchanged(
    method: Method, where: str, groups: Iterable[str], *, down: bool = False
) -> None:
    """Raise UserError if the settings at ``where`` name a group that is not exchanged.

    Those on the way ``down`` may be of groups that the server makes; others are of what sites send.
    """
    known = method.known_groups()
    once = method.opening()
    sent = [
        name
        for name, group in known.items()
        if (group.exchanged if down else group.leaves) and name not in once
    ]
    for group in groups:
        if not down and group in known and known[group].down_only:
            raise UserError(
                f"{where}.{group}: method {method.name} makes group {group!r} at the server, and no "
                "site sends it: leave it out"
            )
        if group in once:
            raise UserError(
                f"{where}.{group}: method {method.name} asks for group {group!r} once, before round 1, "
                "and nothing of it can be configured: leave it out"
            )
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
