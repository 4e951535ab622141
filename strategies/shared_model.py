"""A small network that the sites share, beside each one's own: how it is made, and how both teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError
from models.freezing import split_before
from models.networks import OF_TOKENS, build
from models.training.losses import Extended
from strategies.method import Groups, Made, Method, needs_classes, with_rest_in
from strategies.site_round import LAST_LAYER, SiteRound

SHARED = "shared"  # the name of the shared network among the method's modules
AUTO = "auto"
CNN: Mapping[str, Any] = {"name": "small_cnn", "head": [], "dropout": 0.0}
MLP: Mapping[str, Any] = {"name": "mlp", "head": [], "dropout": 0.0, "hidden": [64]}
_LEAST_SIDE = 8  # pixels of the smallest pictures for `CNN`


@dataclass(frozen=True)
class Seen:
    """What one network makes of a batch: outputs ``(b, classes)`` and features ``(b, d)``.

    Features are what enters ``head.out``.
    """

    outputs: Tensor
    features: Tensor


class Pair(nn.Module):
    """Shows a batch to the site's own and to the shared network."""

    def __init__(self, site: SiteRound) -> None:
        super().__init__()
        self.body, self.out = site.body, site.out
        self.shared_body, self.shared_out = split_before(shared_network(site), LAST_LAYER)

    def forward(self, inputs: Tensor) -> tuple[Seen, Seen]:
        """Return what both make of the inputs, the site's own first."""
        features = self.body(inputs)
        # The site's own is done before the other draws any numbers, as if it were alone.
        own = Seen(self.out(features), features)
        features = self.shared_body(inputs)
        return own, Seen(self.shared_out(features), features)


class Mutual(Method):
    """A method with a shared network, which teaches the site's own and learns from it.

    All layers of the site's own network are personal, and it predicts. So sites may have different
    networks. The shared one sees the same inputs. It is common, but for its last layer, which is of
    the task. A subclass has the field ``model`` and says what is minimized.
    """

    model: Any

    own_networks = True
    needs_inputs = True
    predicts_with_received = False
    tunes = ("personal",)

    def loss(self, site: SiteRound, own: Seen, shared: Seen, labels: Tensor) -> Tensor:
        """Return what is minimized over a batch, a scalar."""
        raise NotImplementedError

    def extras(self, made: Made) -> nn.Module | None:
        """Return the shared network, which starts alike at all sites."""
        torch.manual_seed(made.seed)  # `build_partitioned` has forked the generator
        return nn.ModuleDict({SHARED: make_shared(self.model, made)})

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put the shared network into ``common`` and ``task``, and the rest into ``personal``."""
        del model
        shared = f"extras.{SHARED}"
        return with_rest_in(
            configured, "personal", common=[shared], task=[f"{shared}.{LAST_LAYER}"]
        )

    def check_task(self, kind: TaskKind) -> None:
        """Refuse tasks without classes."""
        needs_classes(self, kind, "lets networks teach each other the chances of classes")

    def train(self, site: SiteRound) -> None:
        """Train both networks in the same steps."""
        self._fit(site, site.trainable())

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune what is personal, taught by the shared network; that one does not predict."""
        del groups
        own = site.trainable(["personal"])
        if own:
            self._fit(site, own, epochs)

    def _fit(
        self, site: SiteRound, trained: Mapping[str, nn.Parameter], epochs: int | None = None
    ) -> None:
        def loss(seen: tuple[Seen, Seen], labels: Tensor) -> Tensor:
            return self.loss(site, *seen, labels)

        of_shared = {id(parameter) for parameter in shared_network(site).parameters()}
        parts: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
        for parameter in trained.values():
            parts[id(parameter) in of_shared].append(parameter)
        site.fit(
            network=Pair(site),
            trained=trained,
            epochs=epochs,
            loss=Extended(site.loss, loss),
            # Each network is clipped as if it trained alone.
            clipped=[part for part in parts if part],
        )


def shared_network(site: SiteRound) -> nn.Sequential:
    """Return the shared network of a site's model."""
    shared = site.extras.get_submodule(SHARED)
    assert isinstance(shared, nn.Sequential)
    return shared


def divergence(learner: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || learner) of the classes' chances, from outputs ``(b, classes)``.

    The sum over the classes, and the mean over the examples, a scalar. The teacher gets no gradient.
    """
    return functional.kl_div(
        functional.log_softmax(learner.float(), dim=1),
        functional.log_softmax(teacher.detach().float(), dim=1),
        reduction="batchmean",
        log_target=True,
    )


def check_model(model: object) -> None:
    """Raise UserError unless ``method.model`` is `AUTO` or names a network with its options."""
    if model == AUTO or (isinstance(model, Mapping) and isinstance(model.get("name"), str)):
        return
    raise UserError(
        f"method.model: expected {AUTO} or a network, got {str(model)[:80]!r}; write "
        f"method.model={AUTO} or method.model=small_cnn"
    )


def make_shared(model: str | Mapping[str, Any], made: Made) -> nn.Sequential:
    """Return the shared network for inputs and classes like those of ``made``.

    Raises
    ------
    UserError
        It cannot be built, or takes other inputs than the site's own.
    """
    shape = made.input_shape
    if isinstance(model, str):
        picture = len(shape) == 3 and min(shape[1:]) >= _LEAST_SIDE
        model = CNN if picture else MLP
    options = dict(model)
    name = str(options.pop("name"))
    if (name in OF_TOKENS) != (made.name in OF_TOKENS):
        other = OF_TOKENS[0] if made.name in OF_TOKENS else CNN["name"]
        raise UserError(
            f"method.model: the shared network {name} takes other inputs than model={made.name}: "
            f"write method.model={other}, with its options"
        )
    try:
        return build(
            name,
            input_shape=shape,
            classes=made.classes,
            models_dir=made.models_dir,
            **{"head": (), **options},
        )
    except UserError as error:
        raise UserError(f"method.model, the shared network: {error}") from None
