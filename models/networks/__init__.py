"""The networks by name: each a plain Sequential with torchvision's tensor names, and a head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.func import functional_call

from models.errors import UserError
from models.networks.body import Layers, widths
from models.networks.head import head as make_head
from models.networks.mlp import mlp
from models.networks.mobilenet import mobilenet
from models.networks.resnet import resnet
from models.networks.small_cnn import small_cnn
from models.networks.squeezenet import squeezenet
from models.networks.vgg import vgg

# Each is called with the network's name and the shape of one input, and its own options.
MODELS: Mapping[str, Callable[..., Layers]] = {
    "resnet18": resnet,
    "resnet34": resnet,
    "resnet50": resnet,
    "vgg11": vgg,
    "vgg11_bn": vgg,
    "vgg16": vgg,
    "vgg16_bn": vgg,
    "mobilenet_v3_small": mobilenet,
    "squeezenet1_1": squeezenet,
    "small_cnn": small_cnn,
    "mlp": mlp,
}


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    head: Sequence[int],
    dropout: float = 0.0,
    **options: object,
) -> nn.Sequential:
    """Return the network ``name``, its weights drawn from torch's global random generator.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    input_shape : tuple of int
        Shape of one input: ``(channels, height, width)``; any shape for ``mlp``.
    classes : int
        Number of outputs.
    head : Sequence[int]
        Widths of the head's hidden layers; may be empty.
    dropout : float
        Probability of Dropout after each hidden layer of the head; 0 adds none.
    **options
        The network's own options, all of which must be given: ``hidden`` for ``mlp``,
        ``classifier`` for the VGGs and MobileNet.

    Returns
    -------
    nn.Sequential
        float32 ``(b, *input_shape)`` to logits ``(b, classes)``, in train mode.

    Raises
    ------
    UserError
        For an unknown name, an unknown or missing option, a width below 1, images too small.
    """
    if name not in MODELS:
        raise UserError(f"no model {name!r}; there are {', '.join(MODELS)}")
    _check_options(name, options)
    shape = tuple(widths("input_shape", list(input_shape)))
    model = nn.Sequential(MODELS[name](name, shape, **options))
    model.add_module("head", make_head(_features(model, name, shape), head, classes, dropout))
    return model


def _check_options(name: str, options: Mapping[str, object]) -> None:
    """Compare ``options`` with the keyword arguments of the network's function."""
    parameters = inspect.signature(MODELS[name]).parameters.values()
    known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    listed = ", ".join([*known, "dropout"])
    for option in options.keys() - set(known):
        raise UserError(f"{name} has no option {option!r}; it has {listed}")
    for option in set(known) - options.keys():
        raise UserError(f"{name} needs a value for the option {option!r}")


def _features(body: nn.Sequential, name: str, shape: tuple[int, ...]) -> int:
    """Return how many features ``body`` makes of one input."""
    try:
        return _output_width(body, shape)
    except RuntimeError as error:
        least = next((n for n in range(1, 257) if _runs(body, (shape[0], n, n))), None)
        if least is None:
            raise
        raise UserError(
            f"images of {shape[1]}x{shape[2]} are too small for {name}: at least {least}x{least}"
        ) from error


def _runs(body: nn.Sequential, shape: tuple[int, ...]) -> bool:
    try:
        return _output_width(body, shape) > 0
    except RuntimeError:
        return False


def _output_width(body: nn.Sequential, shape: tuple[int, ...]) -> int:
    """Return the width of the output, from shapes alone: nothing is computed or drawn."""
    weightless = {name: tensor.to("meta") for name, tensor in body.state_dict().items()}
    one = torch.empty(1, *shape, device="meta")
    outputs = functional_call(body.eval(), weightless, (one,))
    body.train()
    return int(outputs.shape[1])
