"""The networks by name: each a plain `nn.Sequential` with torchvision's tensor names, and a head."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call

from fedstrata.support.errors import UserError
from fedstrata.support.folders import default_models_dir
from fedstrata.support.registry import find
from models.networks.body import Layers, widths
from models.networks.fedavg_cnn import fedavg_cnn, side_of
from models.networks.googlenet import googlenet
from models.networks.head import head as make_head
from models.networks.mlp import linear_model, mlp
from models.networks.mobilenet import mobilenet, mobilenet_v2
from models.networks.resnet import resnet
from models.networks.small_cnn import small_cnn
from models.networks.squeezenet import squeezenet
from models.networks.text import text_encoder, token_features
from models.networks.vgg import vgg

# Each is called with the network's name, the shape of one input, and its own options. All give a
# plain Sequential: only that can be cut into a frozen prefix and a tail (models/freezing.py).
MODELS: Mapping[str, Callable[..., Layers]] = {
    "resnet4": resnet,
    "resnet6": resnet,
    "resnet8": resnet,
    "resnet10": resnet,
    "resnet18": resnet,
    "resnet34": resnet,
    "resnet50": resnet,
    "resnet101": resnet,
    "resnet152": resnet,
    "vgg11": vgg,
    "vgg11_bn": vgg,
    "vgg16": vgg,
    "vgg16_bn": vgg,
    "googlenet": googlenet,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_small": mobilenet,
    "squeezenet1_1": squeezenet,
    "small_cnn": small_cnn,
    "fedavg_cnn": fedavg_cnn,
    "mlp": mlp,
    "mlp_bn": mlp,
    "linear": linear_model,
    "text_encoder": text_encoder,
}
# These take token ids, int64 (b, length); all others take float32.
OF_TOKENS = ("text_encoder",)
# Their output width is found by running them, which takes milliseconds. On the meta device torch
# imports its compiler, 4 s of a server's start. torchvision, for the others, imports it anyway.
_LIGHT = ("small_cnn", "fedavg_cnn", "mlp", "mlp_bn", "linear")
# The shape of an input decides that of a tensor, besides by its channels.
OF_SHAPE = ("fedavg_cnn", "mlp", "mlp_bn", "linear")
_PLACE = "models_dir"  # not an option of a network: each machine decides where its folders are
# Values of an input that are really run. Sites report the shape: a huge one must cost nothing.
_MOST_VALUES = 2**22


def prepare(name: str) -> None:
    """Import what `build` will need for the network ``name``, which may take seconds."""
    if name not in (*_LIGHT, *OF_TOKENS):
        import torchvision  # noqa: F401


def input_dtype(name: str) -> torch.dtype:
    """Return the dtype of the inputs of the network ``name``: int64 (token ids) or float32."""
    return torch.int64 if name in OF_TOKENS else torch.float32


def usual_shape(name: str) -> tuple[int, ...]:
    """Return a shape of one input, for use before any site has reported its own.

    It decides no tensor's shape, except by the number of channels; and of those of `OF_SHAPE`.
    """
    if name == "fedavg_cnn":
        return (1, 28, 28)
    return (1,) if name in OF_TOKENS else (3, 224, 224)


def shape_of(name: str, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """Return `usual_shape`, but of ``fedavg_cnn`` the shape of images that fit its ``tensors``."""
    first = tensors.get("fc1.weight")
    if name != "fedavg_cnn" or first is None or first.dim() != 2:
        return usual_shape(name)
    side = side_of(int(first.shape[1]))
    return (1, side, side)


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    head: Sequence[int],
    dropout: float = 0.0,
    models_dir: Path | None = None,
    **options: object,
) -> nn.Sequential:
    """Return the network ``name``, its weights drawn from torch's global random generator.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    input_shape : tuple of int
        Shape of one input: ``(channels, height, width)``; any shape for ``mlp`` and
        ``linear``; ``(length,)`` for ``text_encoder``.
    classes : int
        Number of outputs.
    head : Sequence[int]
        Widths of the head's hidden layers; may be empty.
    dropout : float
        Probability of Dropout after each hidden layer of the head; 0 adds none.
    models_dir : Path, optional
        Where this machine has the folders that ``folder`` names; `default_models_dir` if omitted.
    **options
        The network's own options, all of which must be given: ``hidden`` for ``mlp``,
        ``classifier`` for the VGGs and MobileNet, ``folder`` for ``text_encoder``.

    Returns
    -------
    nn.Sequential
        `input_dtype` ``(b, *input_shape)`` to logits float32 ``(b, classes)``, in train mode.

    Raises
    ------
    UserError
        For an unknown name, an unknown or missing option, a width below 1, a layer that is too
        large, images too small or of too many channels, texts too long, a missing folder.
    """
    make_body = find("model.name", name, MODELS)
    _check_options(name, options)
    shape = tuple(widths("input_shape", list(input_shape)))
    if _PLACE in inspect.signature(make_body).parameters:
        options[_PLACE] = models_dir or default_models_dir()
    model = nn.Sequential(make_body(name, shape, **options))
    if name in OF_TOKENS:
        features = token_features(model, shape)
    else:
        features = _features(model, name, shape)
    model.add_module("head", make_head(features, head, classes, dropout))
    return model


def _check_options(name: str, options: Mapping[str, object]) -> None:
    """Compare ``options`` with the keyword arguments of the network's function."""
    parameters = inspect.signature(MODELS[name]).parameters.values()
    known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    known = [each for each in known if each != _PLACE]
    listed = ", ".join([*known, "dropout"])
    for option in options.keys() - set(known):
        raise UserError(f"{name} has no option {option!r}; it has {listed}")
    for option in set(known) - options.keys():
        raise UserError(f"{name} needs a value for the option {option!r}")


def _features(body: nn.Sequential, name: str, shape: tuple[int, ...]) -> int:
    """Return the number of features that ``body`` gives for one input."""
    light = name in _LIGHT and math.prod(shape) <= _MOST_VALUES
    device = "cpu" if light and torch.get_default_device().type != "meta" else "meta"
    try:
        return _output_width(body, shape, device)
    except RuntimeError as error:
        # torch's own text speaks of one layer's kernel. A user needs the size of the image.
        least = next((n for n in range(1, 257) if _runs(body, (shape[0], n, n), device)), None)
        if least is None:
            raise
        raise UserError(
            f"images of {shape[1]}x{shape[2]} are too small for {name}: at least {least}x{least}"
        ) from error


def _runs(body: nn.Sequential, shape: tuple[int, ...], device: str) -> bool:
    try:
        return _output_width(body, shape, device) > 0
    except RuntimeError:
        return False


@torch.no_grad()
def _output_width(body: nn.Sequential, shape: tuple[int, ...], device: str) -> int:
    """Return the width of the output; on the device "meta" without computing anything."""
    state = {name: tensor.to(device) for name, tensor in body.state_dict().items()}
    one = torch.zeros(1, *shape, device=device)
    # In eval mode: BatchNorm refuses a single example in train mode, and would count it.
    outputs = functional_call(body.eval(), state, (one,))
    body.train()
    return int(outputs.shape[1])
