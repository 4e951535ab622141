"""A generator of features for a class: what FedGen's server trains and its sites draw from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class FeatureGenerator(nn.Module):
    """From a class and noise to the features that enter the last layer.

    Parameters
    ----------
    classes, noise, hidden, features : int
        Numbers of classes, of numbers drawn for an example, of hidden units, and of features.
    """

    def __init__(self, classes: int, noise: int, hidden: int, features: int) -> None:
        super().__init__()
        self.classes, self.noise = classes, noise
        self.hidden = nn.Linear(noise + classes, hidden)
        self.out = nn.Linear(hidden, features)
        self.register_buffer("lessons", torch.zeros(1))  # rounds in which it was trained

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Return features ``(b, features)`` for classes ``(b,)`` and noise ``(b, noise)``."""
        chosen = functional.one_hot(labels, self.classes).to(noise.dtype)
        features: Tensor = self.out(torch.relu(self.hidden(torch.cat([noise, chosen], 1))))
        return features

    def drawn(self, shares: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return ``count`` classes and noise, from torch's generator of random numbers.

        Parameters
        ----------
        shares : Tensor
            How often each class is drawn; of any sum, and all alike where it is 0.
        count : int
            How many.
        """
        wanted = shares.clamp(min=0)
        if not float(wanted.sum()):
            wanted = torch.ones_like(wanted)
        labels = torch.multinomial(wanted, count, replacement=True)
        return labels, torch.randn(count, self.noise, device=shares.device)


def alike(features: Tensor, noise: Tensor) -> Tensor:
    """Return the diversity loss: how alike features are where the noise is not; between 0 and 1.

    ``exp(-mean_ij(mean |f_i - f_j| * mean (e_i - e_j)^2))``, as in the authors' code, after Mao et
    al. 2019 (arXiv:1903.05628).
    """
    apart = (features[:, None] - features[None]).abs().mean(2)
    noises_apart = (noise[:, None] - noise[None]).square().mean(2)
    return torch.exp(-(apart * noises_apart).mean())
