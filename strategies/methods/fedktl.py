"""FedKTL: the server makes a picture of each class with a frozen generator, for sites to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError
from models.freezing import split_before
from models.generators import PictureGenerator, open_generator
from models.groups import FOUR_GROUPS, Group, Scope
from models.training.losses import Extended
from strategies.aggregators import Aggregator
from strategies.aggregators.class_means import ClassMeans
from strategies.aggregators.picture_teacher import (
    PICTURES,
    PROJECTIONS,
    TARGETS,
    THERE,
    Alignment,
    PictureTeacher,
    PictureTeacherOfEach,
)
from strategies.angular import Angular, unit, with_margin
from strategies.class_statistics import ClassSums, note_class_sums
from strategies.method import (
    Groups,
    Made,
    Method,
    above_zero,
    at_least,
    needs_classes,
    with_rest_in,
)
from strategies.site_round import LAST_LAYER, SiteRound

GROUP = "pictures"
BATCH = 32  # pictures in a step, where there are more classes


class Transfer(ClassSums):
    """Sums of projections by class, the server's pictures, and a layer from features to latents."""

    def __init__(self, made: Made, latent: int) -> None:
        super().__init__(made.classes, made.classes)
        self.project = nn.Linear(made.features, latent)
        self.register_buffer("pictures", torch.zeros(made.classes, *made.input_shape))
        self.register_buffer("targets", torch.zeros(made.classes, latent))
        self.register_buffer("there", torch.zeros(made.classes))  # 1 where there is a picture


@dataclass(frozen=True)
class FedKTL(Method):
    """Zhang et al. 2024, "An Upload-Efficient Scheme for Transferring ..." (arXiv:2403.15760).

    A site's outputs are projections, of which the angle to a corner of a simplex decides (an ETF
    classifier, trained with ArcFace's margin). It sends the mean normalized projection of each class,
    a number for each pair of classes. The server fits them to the latent space of a frozen generator
    of pictures, and sends a picture and a latent vector for each class. The loss of a site has
    ``weight * MSE(project(features of the picture), latent vector)`` besides; ``project`` is a layer
    that stays at the site. BatchNorm's running statistics are of the site's own examples alone, and
    the pictures are normalized with them.

    Parameters
    ----------
    weight : float
        The paper's mu; 0 exchanges nothing.
    etf : bool
        Whether outputs are angles. Without, and with ``weight`` 0, this is training alone.
    scale, margin : float
        Of the angles: what cosines are multiplied with, and ArcFace's margin in radians.
    generator : str
        ``packaged``, or the server's file; see `models.generators.open_generator`.
    latent : int
        Width of the generator's latent vectors.
    each_site : bool
        Whether the server fits the means of each site, as in the paper, for which it needs single
        updates. Otherwise it fits the means over all sites, for which sums suffice.
    rate, steps, pull : float, int, float
        How the server fits them; see `Alignment`.
    """

    weight: float
    etf: bool
    scale: float
    margin: float
    generator: str
    latent: int
    each_site: bool
    rate: float
    steps: int
    pull: float

    name = "fedktl"
    own_networks = True

    def __post_init__(self) -> None:
        at_least(0, self, "weight", "margin", "pull")
        above_zero(self, "scale", "rate")
        at_least(1, self, "latent", "steps")

    # -- the partition ---------------------------------------------------------------------------

    def known_groups(self) -> Mapping[str, Group]:
        """Return the four groups, the mean projections, and the pictures, which go down only."""
        return {
            **FOUR_GROUPS,
            PROJECTIONS: Group(PROJECTIONS, Scope.SAME_TASK, knowledge=True),
            GROUP: Group(GROUP, Scope.SAME_TASK, knowledge=True, down_only=True),
        }

    def extras(self, made: Made) -> nn.Module | None:
        """Return the sums, the pictures, and the layer to latent vectors."""
        if not self.weight:
            return None
        if len(made.input_shape) != 3:
            raise UserError(
                f"method={self.name} sends pictures, and an example here has the shape "
                f"{list(made.input_shape)}: choose another method, such as method=fedgh"
            )
        return Transfer(made, self.latent)

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all layers into ``personal``."""
        del model
        if not self.weight:
            return with_rest_in(configured, "personal")
        sent = {PROJECTIONS: ["extras.sums", "extras.counts"]}
        return with_rest_in(configured, "personal", **sent, **{GROUP: [PICTURES, TARGETS, THERE]})

    def check_task(self, kind: TaskKind) -> None:
        """Refuse tasks without classes, and those where an example has several labels."""
        needs_classes(self, kind, "makes a picture of each class")

    # -- the site's half -------------------------------------------------------------------------

    def train(self, site: SiteRound) -> None:
        """Train all layers, with the pictures besides; then note the sums of the projections."""
        self._fit(site)
        if self.weight:
            note_class_sums(site, lambda inputs: unit(site.tail(inputs)))

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune with the same loss."""
        self._fit(site, groups, epochs)

    def _fit(
        self, site: SiteRound, groups: Sequence[str] | None = None, epochs: int | None = None
    ) -> None:
        chosen: dict[str, Any] = {"groups": groups, "epochs": epochs}
        if self.weight and bool(site.received[THERE].any()):
            chosen["penalty"] = self._penalty(site)
        if self.etf:

            def loss(found: Tensor, labels: Tensor) -> Tensor:
                return site.loss(self.scale * with_margin(found, labels, self.margin), labels)

            chosen |= {"network": Angular(site.tail, 1.0), "loss": Extended(site.loss, loss)}
            chosen |= {"groups": None, "trained": site.trainable(groups)}
        site.fit(**chosen)

    def _penalty(self, site: SiteRound) -> Callable[[], Tensor]:
        """Return how far the features of the server's pictures are from their latent vectors."""
        (there,) = torch.nonzero(site.received[THERE], as_tuple=True)
        pictures, targets = site.as_inputs(site.received[PICTURES]), site.received[TARGETS]
        body, _ = split_before(site.network, LAST_LAYER)  # frozen layers too: these are pictures
        project = site.extras.get_submodule("project")
        statistics = [module for module in body.modules() if hasattr(module, "running_mean")]

        def penalty() -> Tensor:
            rows = there
            if len(there) > BATCH:
                rows = there[torch.randperm(len(there), device=there.device)[:BATCH]]
            training = [module for module in statistics if module.training]
            for module in training:
                module.training = False
            off = functional.mse_loss(project(body(pictures[rows]).float()), targets[rows])
            for module in training:
                module.training = True
            return self.weight * off

        return penalty

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return the network with angles as outputs."""
        return Angular(site.tail, self.scale) if self.etf else site.tail

    def deployed(self, site: SiteRound) -> Mapping[str, Tensor] | None:
        """Return None where outputs are angles; else the network alone predicts."""
        del site
        return None if self.etf else {}

    # -- the server's half -----------------------------------------------------------------------

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Accept partial work: the projections of a network are what they are."""
        del steps, planned
        return None

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return the means by class, or what makes the pictures."""
        if group == PROJECTIONS:
            return ClassMeans()
        if group == GROUP:
            opened = _opened(self.generator)
            if opened.latent != self.latent:
                raise UserError(
                    f"method.latent={self.latent}: the latent vectors of method.generator="
                    f"{self.generator} have {opened.latent} numbers: write method.latent="
                    f"{opened.latent}"
                )
            teacher = PictureTeacherOfEach if self.each_site else PictureTeacher
            return teacher(opened, Alignment(self.rate, self.steps, self.pull))
        return configured()


@lru_cache(maxsize=1)
def _opened(chosen: str) -> PictureGenerator:
    """Return a generator, which is read once for all tasks."""
    return open_generator(chosen, "method.generator")
