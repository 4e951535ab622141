"""A generator of pictures with styles: the layers and tensor names of StyleGAN2, of any size."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE, GAIN = 0.2, 2**0.5  # of the leaky ReLU, and what it is multiplied with
MAPPING_RATE = 0.01  # by which the mapping's weights are smaller than they are stored
SMALLEST = 4  # pixels of the first block


class Scaled(nn.Module):
    """A linear layer whose weights are stored with a deviation of 1 over ``rate``."""

    def __init__(
        self, inputs: int, outputs: int, *, rate: float = 1.0, bias: float = 0.0, act: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.rate, self.scale, self.act = rate, rate / inputs**0.5, act

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(b, outputs)``."""
        made = functional.linear(x, self.weight * self.scale, self.bias * self.rate)
        return functional.leaky_relu(made, SLOPE) * GAIN if self.act else made


class LatentMapping(nn.Module):
    """From random numbers, and a class where there are some, to a latent vector."""

    def __init__(self, noise: int, latent: int, layers: int, classes: int) -> None:
        super().__init__()
        self.noise, self.layers, self.classes = noise, layers, classes
        if classes:
            self.embed = Scaled(classes, latent)
        widths = [noise + (latent if classes else 0)] + [latent] * layers
        for number in range(layers):
            layer = Scaled(widths[number], widths[number + 1], rate=MAPPING_RATE, act=True)
            self.add_module(f"fc{number}", layer)

    def forward(self, noise: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return latent vectors for noise ``(b, noise)`` and one-hot classes ``(b, classes)``."""
        x = _unit(noise)
        if chosen is not None:
            x = torch.cat([x, _unit(self.embed(chosen))], 1)
        for number in range(self.layers):
            x = self.get_submodule(f"fc{number}")(x)
        return x


class Styled(nn.Module):
    """A convolution whose input channels are scaled by a style, before leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, latent: int, size: int, *, up: bool = False
    ) -> None:
        super().__init__()
        self.affine = Scaled(latent, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(size, size))
        self.up = up

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """Return ``(b, outputs, size, size)``."""
        style = self.affine(latents)
        made = x * style[:, :, None, None]
        if self.up:
            made = functional.conv_transpose2d(made, self.weight.transpose(0, 1), stride=2)
            made = _smoothed(made, (1, 1))
        else:
            made = functional.conv2d(made, self.weight, padding=1)
        # The weights of an output channel have the norm 1 under the style.
        power = style.square() @ self.weight.square().sum((2, 3)).T
        made = made * (power + 1e-8).rsqrt()[:, :, None, None]
        made = made + self.get_buffer("noise_const") * self.noise_strength
        return functional.leaky_relu(made + self.bias[:, None, None], SLOPE) * GAIN


class ToPicture(nn.Module):
    """From channels to those of a picture, each scaled by a style."""

    def __init__(self, inputs: int, channels: int, latent: int) -> None:
        super().__init__()
        self.affine = Scaled(latent, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """Return ``(b, channels, size, size)``."""
        style = self.affine(latents) / x.shape[1] ** 0.5
        return functional.conv2d(x * style[:, :, None, None], self.weight, self.bias)


class Block(nn.Module):
    """Twice the size of the block before, and a picture added to its."""

    def __init__(self, inputs: int, outputs: int, channels: int, latent: int, size: int) -> None:
        super().__init__()
        if inputs:
            self.conv0 = Styled(inputs, outputs, latent, size, up=True)
        else:
            self.const = nn.Parameter(torch.randn(outputs, size, size))
        self.conv1 = Styled(outputs, outputs, latent, size)
        self.torgb = ToPicture(outputs, channels, latent)

    def forward(
        self, x: Tensor | None, picture: Tensor | None, latents: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return channels and picture."""
        made = self.const.expand(len(latents), -1, -1, -1) if x is None else self.conv0(x, latents)
        made = self.conv1(made, latents)
        added: Tensor = self.torgb(made, latents)
        return made, added if picture is None else _doubled(picture) + added


class StyleNetwork(nn.Module):
    """Mapping and synthesis, as in Karras et al. 2020 (arXiv:1912.04958), with skips to the picture.

    Parameters
    ----------
    widths : sequence of int
        Channels of each block, from 4 x 4 pixels on, each twice as large as the one before.
    channels : int
        Of a picture.
    latent, noise : int
        Width of a latent vector, and random numbers that it is made of.
    layers : int
        Of the mapping.
    classes : int
        That it was trained with; 0 for none.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        *,
        channels: int = 3,
        latent: int,
        noise: int,
        layers: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.sizes = tuple(SMALLEST << number for number in range(len(widths)))
        self.latent, self.channels = latent, channels
        self.mapping = LatentMapping(noise, latent, layers, classes)
        self.synthesis = nn.Module()
        for inputs, outputs, size in zip((0, *widths), widths, self.sizes, strict=False):
            block = Block(inputs, outputs, channels, latent, size)
            self.synthesis.add_module(f"b{size}", block)

    def forward(self, latents: Tensor) -> Tensor:
        """Return pictures ``(b, channels, size, size)``, about -1 to 1, for ``(b, latent)``."""
        x: Tensor | None = None
        picture: Tensor | None = None
        for size in self.sizes:
            x, picture = self.synthesis.get_submodule(f"b{size}")(x, picture, latents)
        assert picture is not None
        return picture

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> StyleNetwork:
        """Return a network whose tensors have these shapes and no values: on the meta device.

        Raises
        ------
        ValueError
            Where they are of no such network.
        """
        try:
            sizes = [SMALLEST]
            while f"synthesis.b{2 * sizes[-1]}.conv1.weight" in shapes:
                sizes.append(2 * sizes[-1])
            layers = next(n for n in count() if f"mapping.fc{n}.weight" not in shapes)
            latent, first = shapes["mapping.fc0.weight"]
            embedded = shapes.get("mapping.embed.weight")
            with torch.device("meta"):  # nothing is allocated for shapes that a file only claims
                made = cls(
                    tuple(shapes[f"synthesis.b{size}.conv1.weight"][0] for size in sizes),
                    channels=shapes[f"synthesis.b{SMALLEST}.torgb.weight"][0],
                    latent=latent,
                    noise=first - (latent if embedded else 0),
                    layers=layers,
                    classes=embedded[1] if embedded else 0,
                )
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise ValueError(f"no layers as of StyleGAN2 ({error})") from None
        own = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
        wrong = sorted(name for name, shape in own.items() if shapes.get(name) != shape)
        if wrong:
            raise ValueError(f"{wrong[0]} is {shapes.get(wrong[0])}, and {own[wrong[0]]} is needed")
        return made


def _unit(x: Tensor) -> Tensor:
    """Return rows whose squares have the mean 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def _smoothed(x: Tensor, padding: tuple[int, int], gain: float = 4.0) -> Tensor:
    """Return each channel under the filter 1, 3, 3, 1 in both directions, over 64."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    kernel = (line[:, None] * line * gain).expand(x.shape[1], 1, 4, 4)
    before, after = padding
    padded = functional.pad(x, (before, after, before, after))
    return functional.conv2d(padded, kernel, groups=x.shape[1])


def _doubled(x: Tensor) -> Tensor:
    """Return pictures of twice the size."""
    b, c, height, width = x.shape
    apart = x.new_zeros(b, c, height, 2, width, 2)
    apart[:, :, :, 0, :, 0] = x
    return _smoothed(apart.reshape(b, c, 2 * height, 2 * width), (2, 1))
