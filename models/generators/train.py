"""Train the generator that comes with fedstrata, from drawn faces and files of MedMNIST.

    python -m models.generators.train --out models/generators/drawn_faces.json

It learns as a variational autoencoder (Kingma and Welling 2014): an encoder gives the noise of each
picture, and the generator has to draw the picture again from noise and class. The encoder is not kept.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.drawn_faces import draw
from fedstrata.support.errors import UserError
from fedstrata.support.seeds import derive_seed
from models.generators.style import StyleNetwork
from models.packaged import write_packaged

NOISE, LATENT, LAYERS, SIZE = 32, 32, 2, 32
WIDTHS = (32, 32, 24, 16)  # of 4, 8, 16 and 32 pixels
FIRST_IDENTITY = 1_000_000  # no site has these people
BATCH, RATE = 16, 0.003
SPREAD = 0.05  # weight of how far the noise of pictures is from what is drawn later


@dataclass(frozen=True)
class Pictures:
    """What it learns: uint8 ``(n, 3, 32, 32)``, the class of each, and how many classes there are."""

    values: NDArray[np.uint8]
    classes: NDArray[np.int64]
    count: int


class Encoder(nn.Module):
    """From a picture and its class to the mean and the deviation of its noise."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3 + classes, 24, 32, 48, 48)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48 * 4, 2 * NOISE))

    def forward(self, pictures: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance, ``(b, noise)`` each."""
        planes = chosen[:, :, None, None].expand(-1, -1, *pictures.shape[2:])
        mean, log_variance = self.layers(torch.cat([pictures, planes], 1)).chunk(2, 1)
        return mean, log_variance.clamp(-10, 4)


def faces(count: int, seed: int) -> Pictures:
    """Return drawn faces, with a class for each combination of gender and pose."""
    made = draw(
        count, seed=seed, identities=max(count // 4, 1), first_identity=FIRST_IDENTITY, size=SIZE
    )
    classes = 2 * made.labels["gender"] + made.labels["pose"]
    return Pictures(made.images.transpose(0, 3, 1, 2), classes, 4)


def medmnist(path: Path) -> Pictures:
    """Return the training pictures of a file of MedMNIST, in three channels of 32 pixels.

    Raises
    ------
    UserError
        For a file without them.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            values, labels = found["train_images"], found["train_labels"]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no file of MedMNIST: {error}") from None
    classes = labels.reshape(len(labels), -1)[:, 0].astype(np.int64)
    if values.ndim not in (3, 4) or values.dtype != np.uint8 or classes.min() < 0:
        raise UserError(f"{path} has no pictures of 8 bits with a class each")
    planes = values[..., None].repeat(3, -1) if values.ndim == 3 else values
    tensor = torch.from_numpy(planes).permute(0, 3, 1, 2).float()
    scaled = functional.interpolate(tensor, (SIZE, SIZE), mode="bilinear", antialias=True)
    return Pictures(scaled.round().byte().numpy(), classes, int(classes.max()) + 1)


def together(sets: list[Pictures]) -> Pictures:
    """Return all pictures, each set with classes of its own."""
    before = np.cumsum([0, *(each.count for each in sets)])
    classes = [each.classes + first for each, first in zip(sets, before, strict=False)]
    values = np.concatenate([each.values for each in sets])
    return Pictures(values, np.concatenate(classes), int(before[-1]))


def train(pictures: Pictures, steps: int, seed: int, *, say: bool = False) -> StyleNetwork:
    """Return a generator of such pictures."""
    torch.manual_seed(derive_seed(seed, "generator of pictures"))
    network = StyleNetwork(
        WIDTHS, latent=LATENT, noise=NOISE, layers=LAYERS, classes=pictures.count
    )
    encoder = Encoder(pictures.count)
    optimizer = torch.optim.Adam([*network.parameters(), *encoder.parameters()], lr=RATE)
    rng, started = np.random.default_rng(seed), time.monotonic()
    for step in range(steps):
        rows = rng.integers(0, len(pictures.values), BATCH)
        wanted = torch.from_numpy(pictures.values[rows]).float() / 127.5 - 1
        chosen = functional.one_hot(
            torch.from_numpy(pictures.classes[rows]), pictures.count
        ).float()
        mean, log_variance = encoder(wanted, chosen)
        noise = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        made = network(network.mapping(noise, chosen))
        off = (made - wanted).abs().mean() + (made - wanted).square().mean()
        spread = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = off + SPREAD * spread
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if say and step % 100 == 0:
            seconds = time.monotonic() - started
            print(
                f"step {step} of {steps}: off {off:.4f}, spread {spread:.3f}, {seconds:.0f} s",
                flush=True,
            )
    return network


def main(arguments: list[str] | None = None) -> None:
    """Train a generator, and write it as a file of the package."""
    parser = argparse.ArgumentParser(prog="python -m models.generators.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file to write, a .json")
    parser.add_argument("--faces", type=int, default=4000, help="how many faces are drawn")
    parser.add_argument("--medmnist", type=Path, nargs="*", default=[], help="files of MedMNIST")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sets = [faces(options.faces, options.seed)] if options.faces else []
    sets += [medmnist(path) for path in options.medmnist]
    if not sets:
        raise UserError("there is nothing to learn from: give --faces above 0, or --medmnist FILE")
    network = train(together(sets), options.steps, options.seed, say=True)
    named = ", ".join(
        [*(["drawn faces"] if options.faces else []), *(p.name for p in options.medmnist)]
    )
    write_packaged(
        options.out,
        network.state_dict(),
        about=f"a generator of pictures of {SIZE} pixels, which learned from {named}",
        command=_command(options),
        license="Apache-2.0" if not options.medmnist else "Apache-2.0, and that of MedMNIST",
    )
    print(f"{options.out}: {options.out.stat().st_size / 1e3:.0f} kB")


def _command(options: argparse.Namespace) -> str:
    """Return what makes the same file, without the folders of this machine."""
    parts = ["python -m models.generators.train", f"--out models/generators/{options.out.name}"]
    parts += [f"--faces {options.faces}", f"--steps {options.steps}", f"--seed {options.seed}"]
    if options.medmnist:
        parts.append("--medmnist " + " ".join(path.name for path in options.medmnist))
    return " ".join(parts)


if __name__ == "__main__":
    main()
