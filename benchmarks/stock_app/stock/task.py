"""The networks, the data of a site, and the usual loops over it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18


def network(name: str) -> nn.Module:
    """Return a ResNet-18 for two classes; or ``mlp``, for the 561 features and 6 classes of UCI HAR."""
    if name == "mlp":
        sizes = (561, 128, 64, 32)
        layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(sizes)]
        return nn.Sequential(*(each for pair in layers for each in pair), nn.Linear(32, 6))
    return resnet18(num_classes=2)


def load_data(path: str, batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return loaders of the training and of the test examples in an npz."""
    held = np.load(path, allow_pickle=False)

    def loader(split: str, *, shuffle: bool) -> DataLoader[Any]:
        inputs = torch.from_numpy(held[f"{split}_x"]).float()
        if inputs.dim() == 4:
            inputs = (inputs.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        labels = torch.from_numpy(held[f"{split}_y"])
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
        for images, labels in loader:
            optimizer.zero_grad()
            loss: Tensor = criterion(model(images), labels)
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
        for images, labels in loader:
            outputs = model(images)
            loss += criterion(outputs, labels).item()
            right += int((outputs.argmax(1) == labels).sum())
            seen += len(labels)
    return loss / len(loader), right / seen
