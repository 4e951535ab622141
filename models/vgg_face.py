"""The published PyTorch VGG-Face (Parkhi et al., BMVC 2015), under the names of torchvision's VGG-16."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# Where torchvision's vgg16 has its convolutions among the layers of `features`, block by block.
_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_BODY: Mapping[str, str] = {
    f"conv{block}_{number}": f"features.{index}"
    for block, layers in enumerate(_BLOCKS, start=1)
    for number, index in enumerate(layers, start=1)
}
_CLASSIFIER: Mapping[str, str] = {"fc6": "classifier.0", "fc7": "classifier.3"}
_IDENTITIES = "fc8"  # one output for each of the 2,622 people of the training set
NOTE = "VGG-Face's names read as torchvision's (conv1_1 as features.0 to fc7 as classifier.3)"


def is_vgg_face(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether all 13 convolutions have the names of ``vgg_face_dag.pth``."""
    return all(f"{layer}.weight" in tensors for layer in _BODY)


def as_vgg16(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return VGG-Face's tensors by torchvision's names, and the names of those left out.

    Only the names differ: the layers are the same, in the same order, and both flatten 512x7x7 with
    the channels first. ``fc8`` is left out, for the 4096 outputs of fc7 are the features of a face.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        As in ``vgg_face_dag.pth``: ``conv1_1.weight`` to ``fc8.bias``; not copied. Names that
        are none of its layers stay as they are.
    """
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, what = name.rpartition(".")
        if layer != _IDENTITIES:
            known = _BODY.get(layer) or _CLASSIFIER.get(layer)
            renamed[f"{known}.{what}" if known else name] = tensor
    dropped = tuple(name for name in tensors if name.rpartition(".")[0] == _IDENTITIES)
    return renamed, dropped
