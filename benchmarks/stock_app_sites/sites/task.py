"""The network, the data of a site, and the usual loops over it."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def network() -> nn.Module:
    """Return a perceptron from 561 features to 6 classes."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(561, 128),
            relu1=nn.ReLU(),
            fc2=nn.Linear(128, 64),
            relu2=nn.ReLU(),
            fc3=nn.Linear(64, 32),
            relu3=nn.ReLU(),
            out=nn.Linear(32, 6),
        )
    )


def start(folder: str) -> nn.Module:
    """Return the network that the federation begins with."""
    model = network()
    with np.load(f"{folder}/start.npz", allow_pickle=False) as held:
        parameters = zip(model.parameters(), sorted(held), strict=True)
        for parameter, name in parameters:
            parameter.data.copy_(torch.from_numpy(held[name]))
    return model


@lru_cache(maxsize=1)
def everything(folder: str) -> dict[str, Any]:
    """Return all sites' examples."""
    with np.load(f"{folder}/sites.npz", allow_pickle=False) as held:
        return {name: held[name] for name in held}


def load_data(folder: str, site: int, batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return loaders of the training and of the test examples of a site."""
    held = everything(folder)

    def loader(split: str, *, shuffle: bool) -> DataLoader[Any]:
        mine = held[f"{split}_site"] == site
        pairs = TensorDataset(*(torch.from_numpy(held[f"{split}_{what}"][mine]) for what in "xy"))
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
