"""How the weight mu of FedProx's proximal term changes: it follows the mean loss of the sites."""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.aggregators.acts_on_mean import ActsOnMean
from strategies.aggregators.base import Options, Tensors

MU, LOSS = "extras.mu", "extras.loss"
FALLS = 5  # in a row, after which mu falls


class ProximalWeight(ActsOnMean):
    """mu rises by a step where the mean loss rose, and falls by one after 5 falls in a row.

    Li et al. 2020 (arXiv:1812.06127), section 5.3.2 and appendix C.3.3. Of what the sites send, only
    their losses count; the mean is FedAvg's. mu does not fall below 0.

    Parameters
    ----------
    step : float
        How far mu moves at once.
    """

    def __init__(self, step: float) -> None:
        super().__init__(Options())
        self._step = step
        self._last: float | None = None  # the mean loss of the round before
        self._falls = 0

    def _after(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        loss, before = float(mean[LOSS]), float(self._current[MU])
        mu, last = self._next(before, loss), self._last
        self._last = loss
        if mu != before:
            self.note = (
                f"mu goes from {before:.4g} to {mu:.4g}: the mean loss {last:.4g} -> {loss:.4g}"
            )
        return {**mean, MU: torch.full_like(self._current[MU], mu)}

    def _next(self, mu: float, loss: float) -> float:
        """Return mu after a round with this loss, and count falls."""
        if self._last is None or loss == self._last:
            self._falls = 0
            return mu
        if loss > self._last:
            self._falls = 0
            return mu + self._step
        self._falls += 1
        if self._falls < FALLS:
            return mu
        self._falls = 0
        return max(mu - self._step, 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the loss of the round before and the falls so far; nothing before round 1."""
        if self._last is None:
            return {}
        return {
            "loss": torch.tensor([self._last], dtype=torch.float64),
            "falls": torch.tensor([self._falls]),
        }

    def load_state_dict(self, state: Tensors) -> None:
        """Load what ``state_dict`` returned; ValueError if it is of another rule."""
        if not state:
            return
        if set(state) != {"loss", "falls"}:
            raise ValueError(f"the state of mu has a loss and falls, got {sorted(state)}")
        self._last, self._falls = float(state["loss"]), int(state["falls"])
