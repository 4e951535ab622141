"""Frozen generators of pictures: the one that comes with fedstrata, and files of users."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from fedstrata.support.errors import UserError
from models.generators.base import PictureGenerator
from models.generators.style import StyleNetwork
from models.packaged import read_file

__all__ = ["PACKAGED", "PACKAGED_FILE", "PictureGenerator", "StyleGenerator", "open_generator"]

PACKAGED = "packaged"
PACKAGED_FILE = Path(__file__).resolve().parent / "drawn_faces.json"
MOST_BYTES = 2_000_000_000  # of a user's file
_CHUNK = 16  # pictures made at once


class StyleGenerator(PictureGenerator):
    """A `StyleNetwork` with its weights; where it has classes, they are drawn alike."""

    def __init__(self, network: StyleNetwork) -> None:
        self._network = network.eval().requires_grad_(False)
        self.latent, self.channels = network.latent, network.channels
        self.size = network.sizes[-1]

    def latents(self, count: int) -> Tensor:
        """Return latent vectors, drawn."""
        mapping = self._network.mapping
        noise = torch.randn(count, mapping.noise)
        chosen = None
        if mapping.classes:
            chosen = torch.eye(mapping.classes)[torch.randint(mapping.classes, (count,))]
        with torch.no_grad():
            made: Tensor = mapping(noise, chosen)
        return made

    def pictures(self, latents: Tensor) -> Tensor:
        """Return pictures, some at a time."""
        with torch.no_grad():
            made = [self._network(part) for part in torch.split(latents, _CHUNK)]
        return ((torch.cat(made) + 1) / 2).clamp(0, 1)


def open_generator(chosen: str, where: str) -> PictureGenerator:
    """Return a generator.

    Parameters
    ----------
    chosen : str
        ``packaged``, or the absolute path of a safetensors file with the tensors of a StyleGAN2.
    where : str
        The setting, for error texts.

    Raises
    ------
    UserError
        For a file that is not there, is no safetensors file, or has other tensors.
    """
    if chosen == PACKAGED:
        return StyleGenerator(_network(read_file(PACKAGED_FILE), f"{where}={chosen}"))
    path = Path(chosen)
    if not path.is_absolute() or path.suffix != ".safetensors" or not path.is_file():
        raise UserError(
            f"{where}={chosen}: write {PACKAGED}, or the absolute path of a .safetensors file that is "
            "there (a pickle is never read: save the state_dict of its G_ema with safetensors)"
        )
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{where}={chosen} is larger than {MOST_BYTES / 1e9:g} GB")
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{where}={chosen} is no safetensors file: {error}") from None
    return StyleGenerator(_network(tensors, f"{where}={chosen}"))


def _network(tensors: dict[str, Tensor], where: str) -> StyleNetwork:
    """Return the network of these tensors; those that it does not need are left out."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        network = StyleNetwork.of_shapes(shapes)
    except ValueError as error:
        raise UserError(f"{where} has {error}") from None
    own = network.state_dict()
    found = {name: tensors[name].to(torch.float32) for name in own}
    wrong = [name for name, tensor in found.items() if not tensor.isfinite().all()]
    if wrong:
        raise UserError(f"{where}: {wrong[0]} is not finite")
    network.load_state_dict(found, assign=True)
    return network
