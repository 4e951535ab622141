"""The networks, the data of a site, and the usual loops over it."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def network(name: str) -> nn.Module:
    """Return a ResNet-18 for two classes; or ``mlp``, for the 561 features and 6 classes of UCI HAR."""
    if name == "mlp":
        sizes = (561, 128, 64, 32)
        layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(sizes)]
        return nn.Sequential(*(each for pair in layers for each in pair), nn.Linear(32, 6))
    from torchvision.models import resnet18  # here, since the perceptron does without torchvision

    return resnet18(num_classes=2)


def load_parameters(model: nn.Module, path: str) -> None:
    """Load the parameters of ``model``, in its own order, from an npz file."""
    with np.load(path, allow_pickle=False) as arrays:
        for parameter, name in zip(model.parameters(), sorted(arrays), strict=True):
            parameter.data.copy_(torch.from_numpy(arrays[name]))


@cache  # a process that simulates sites is asked for the same ones in every round
def read_arrays(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of an npz file."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}


def load_data(path: str, batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return loaders of the training and of the test examples in an npz file."""
    arrays = read_arrays(path)

    def loader(split: str, *, shuffle: bool) -> DataLoader[Any]:
        inputs = torch.from_numpy(arrays[f"{split}_x"]).float()
        if inputs.dim() == 4:
            inputs = (inputs.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        labels = torch.from_numpy(arrays[f"{split}_y"])
        pairs = TensorDataset(inputs, labels)
        return DataLoader(pairs, batch_size=batch_size, shuffle=shuffle)

    return loader("train", shuffle=True), loader("test", shuffle=False)


def train(model: nn.Module, loader: DataLoader[Any], epochs: int, lr: float) -> float:
    """Train; return the mean loss."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    total = 0.0
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss: Tensor = criterion(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


def test(model: nn.Module, loader: DataLoader[Any]) -> tuple[float, float]:
    """Return loss and accuracy."""
    criterion = nn.CrossEntropyLoss()
    model.eval()
    loss, right, seen = 0.0, 0, 0
    with torch.no_grad():
        for inputs, labels in loader:
            outputs = model(inputs)
            loss += criterion(outputs, labels).item()
            right += int((outputs.argmax(1) == labels).sum())
            seen += len(labels)
    return loss / len(loader), right / seen
