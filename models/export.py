"""Writes a model in formats that other programs load, and checks that its logits stay the same."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError, nearest
from models.model_card import ModelCard
from models.networks import OF_TOKENS
from models.networks.resnet import STAGES
from models.preprocessing import Pictures, Table

TOLERANCE = 1e-5  # of a logit, or of the largest one where that is above 1
EXAMPLES = 3  # on which the exported model is compared


@dataclass(frozen=True)
class Exported:
    """What was written.

    Parameters
    ----------
    path, card : Path
        The model, and what it takes, as JSON beside it.
    difference : float
        The largest difference to the logits of the trainer's network.
    takes : str
        What one input is.
    """

    path: Path
    card: Path
    difference: float
    takes: str


class Scaled(nn.Module):
    """A network that takes values as they stand in files, and scales them itself.

    Parameters
    ----------
    network : nn.Module
        It takes ``(clip((x - low) / (high - low), 0, 1) - mean) / std``.
    low, high : float or None
        None: nothing is brought to 0 to 1.
    mean, std : Tensor
        Of a shape that fits an input.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, span: tuple[float, float] | None, mean: Tensor, std: Tensor
    ) -> None:
        super().__init__()
        self.network = network
        self.span = span
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of values as they stand in files."""
        if self.span is not None:
            low, high = self.span
            x = ((x - low) / (high - low)).clamp(0.0, 1.0)
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def scaled(network: nn.Module, card: ModelCard) -> tuple[nn.Module, str]:
    """Return the network with what can be held of its preprocessing, and what it then takes."""
    given, shape = card.preprocessing, card.network.input_shape
    if isinstance(given, Pictures) and not given.window_of_file:
        low, high = given.span or (0.0, 255.0)
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (given.mean, given.std))
        eight = ""
        if given.span is not None and not given.for_all:
            eight = " (bring pictures of 8 bits from 0 to 255 to that range first)"
        return Scaled(network, (low, high), mean, std), (
            f"float32 pictures (batch, {', '.join(map(str, shape))}): the {given.crop}, "
            f"{given.resampling}, values from {low:g} to {high:g}{eight}"
        )
    if isinstance(given, Table):
        mean, std = torch.tensor(given.mean), torch.tensor(given.std)
        return Scaled(network, None, mean, std), (
            f"float32 rows (batch, {given.width}): {', '.join(input_names(given)[:8])}"
            f"{', ...' if given.width > 8 else ''}; gaps filled as the card says"
        )
    return network, takes_prepared(card)


def takes_prepared(card: ModelCard) -> str:
    """Return what the network itself takes."""
    kind = "int64 token ids" if card.network.name in OF_TOKENS else "float32 values"
    shape = ", ".join(map(str, card.network.input_shape))
    return f"{kind} (batch, {shape}), prepared as the card says"


def input_names(given: Table) -> list[str]:
    """Return the names of a table's inputs: ``age``, ``place=ward``, ``age missing``."""
    names = []
    for column in given.columns:
        if column.categories:
            names += [f"{column.name}={category}" for category in column.categories]
        else:
            names.append(column.name)
    if given.impute == "indicator":
        names += [f"{column.name} missing" for column in given.columns]
    return names


def export(
    network: nn.Sequential, card: ModelCard, kind: str, path: Path, *, prepared: bool = False
) -> Exported:
    """Write ``network`` to ``path`` in the format ``kind``, and its card beside it.

    Parameters
    ----------
    network : nn.Sequential
        In eval mode.
    card : ModelCard
        Its card.
    kind : str
        One of `FORMATS`.
    path : Path
        The file; it is replaced.
    prepared : bool
        Whether the written model takes inputs that are scaled already. The formats that hold
        tensors alone always do.

    Raises
    ------
    UserError
        The format cannot hold this model, a package is missing, or the logits differ.
    """
    if kind not in FORMATS:
        raise UserError(f"--format {kind!r}: one of {', '.join(FORMATS)}; {nearest(kind, FORMATS)}")
    if not card.predicts_alone:
        raise UserError(
            f"method {card.method} predicts with more than this network, so the network alone "
            "would give other answers: it cannot be exported"
        )
    whole: nn.Module = network
    takes = takes_prepared(card)
    if not prepared and kind not in TENSORS_ALONE:
        whole, takes = scaled(network, card)
    example = example_of(card, whole is not network)
    with torch.no_grad():
        wanted = whole.eval()(example)
    with replacing_private(path) as unfinished, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters, which look at every branch of a library
        again = FORMATS[kind](whole, card, example, unfinished)
        with torch.no_grad():
            found = again(example)
        difference = float((found - wanted).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise UserError(
                f"--format {kind}: the written model's logits differ by {difference:g} from the "
                f"trainer's, more than {TOLERANCE:g}: nothing was written"
            )
    beside = path.with_name(f"{path.name}.card.json")
    with replacing_private(beside) as unfinished:
        described = {"takes": takes, "gives": _gives(card), **card.to_dict()}
        unfinished.write_text(json.dumps(described, indent=1, ensure_ascii=False))
    return Exported(path, beside, difference, takes)


def example_of(card: ModelCard, raw: bool) -> Tensor:
    """Return a few inputs that the exported model may get, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    shape = (EXAMPLES, *card.network.input_shape)
    if card.network.name in OF_TOKENS:
        return torch.randint(0, 5, shape, generator=generator)
    values = torch.rand(shape, generator=generator)
    if raw and isinstance(card.preprocessing, Pictures):
        low, high = card.preprocessing.span or (0.0, 255.0)
        values = low + values * (high - low)
    if raw and isinstance(card.preprocessing, Table):
        values = torch.tensor(card.preprocessing.mean) + values * torch.tensor(
            card.preprocessing.std
        )
    return values


def _gives(card: ModelCard) -> str:
    names = ", ".join(card.outputs[:8]) + (", ..." if len(card.outputs) > 8 else "")
    what = {
        "classes": "a logit for each class (softmax gives probabilities)",
        "labels": "a logit for each label (sigmoid gives probabilities)",
        "number": "each number as (number - mean) / std of the card's kind",
    }[card.kind.name]
    return f"{what}: {names}"


Loaded = Callable[[Tensor], Tensor]


def _torchscript(whole: nn.Module, card: ModelCard, example: Tensor, path: Path) -> Loaded:
    del card
    traced = torch.jit.trace(whole, (example,), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(path))
    loaded: Loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return loaded


def _program(whole: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=2**16)
    shapes = ({0: batch},)
    return torch.export.export(whole, (example,), dynamic_shapes=shapes, strict=False)


def _torch_export(whole: nn.Module, card: ModelCard, example: Tensor, path: Path) -> Loaded:
    del card
    with path.open("wb") as file:
        torch.export.save(_program(whole, example), file)
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _onnx(whole: nn.Module, card: ModelCard, example: Tensor, path: Path) -> Loaded:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format onnx needs the package {error.name}: pip install -e '.[export]'"
        ) from error
    program = torch.onnx.export(
        _program(whole, example),
        dynamo=True,
        input_names=["input"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    made = program.model_proto
    onnx.helper.set_model_props(made, {"card": card.to_json()})
    path.write_bytes(made.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])

    return run


def _safetensors(whole: nn.Module, card: ModelCard, example: Tensor, path: Path) -> Loaded:
    del example
    state = {name: tensor.clone().contiguous() for name, tensor in whole.state_dict().items()}
    safetensors.torch.save_file(state, path, {"card": card.to_json()})
    whole.load_state_dict(safetensors.torch.load_file(path))
    return whole


def _torchvision(whole: nn.Module, card: ModelCard, example: Tensor, path: Path) -> Loaded:
    from torchvision import models

    state = torchvision_state(whole.state_dict(), card)
    torch.save(state, path)
    name, outputs = card.network.name, len(card.outputs)
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    twin = models.get_model(name, weights=None, num_classes=outputs, **options)
    twin.load_state_dict(torch.load(path, weights_only=True))
    loaded: Loaded = twin.eval()
    del example
    return loaded


LAST = {
    **{"resnet": "fc", "googlenet": "fc", "vgg": "classifier.6"},
    **{"mobilenet_v2": "classifier.1", "mobilenet_v3": "classifier.3"},
}
"""What torchvision calls the last layer, by the beginning of a network's name."""


def torchvision_state(own: Mapping[str, Tensor], card: ModelCard) -> dict[str, Tensor]:
    """Return a network's tensors by the names of torchvision's.

    Raises
    ------
    UserError
        torchvision has no network of this head, or of these inputs.
    """
    network = card.network
    last = next((name for kind, name in LAST.items() if network.name.startswith(kind)), None)
    if last is None or network.name in STAGES:
        raise UserError(
            f"--format torchvision: torchvision has no {network.name} with such a head; there is "
            "resnet18 to resnet152, googlenet, mobilenet_v2, and the VGGs and mobilenet_v3_small "
            "with model.classifier=true"
        )
    if network.head:
        raise UserError(
            f"--format torchvision: the head has the hidden layers {list(network.head)}, and "
            f"torchvision's {network.name} has one layer alone: train with model.head=[], or "
            "choose another format"
        )
    if last not in ("fc", "classifier.1") and network.options.get("classifier") is not True:
        raise UserError(
            f"--format torchvision: this {network.name} is without torchvision's classifier: train "
            "with model.classifier=true, or choose another format"
        )
    if network.input_shape[0] != 3:
        raise UserError(
            f"--format torchvision: torchvision's {network.name} takes 3 channels, and this one "
            f"{network.input_shape[0]}: train with data.channels=3, or choose another format"
        )
    renamed = {name.replace("head.out.", f"{last}."): tensor for name, tensor in own.items()}
    return {name: tensor.clone() for name, tensor in renamed.items()}


FORMATS: Mapping[str, Callable[[nn.Module, ModelCard, Tensor, Path], Loaded]] = {
    "torchscript": _torchscript,
    "onnx": _onnx,
    "torch.export": _torch_export,
    "safetensors": _safetensors,
    "torchvision": _torchvision,
}
TENSORS_ALONE = ("safetensors", "torchvision")
"""Formats that hold no computation, and so none of the preprocessing."""
SUFFIXES = {
    "torchscript": ".pt",
    "onnx": ".onnx",
    "torch.export": ".pt2",
    "safetensors": ".safetensors",
    "torchvision": ".pth",
}
