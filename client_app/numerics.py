"""What a site's last digits depend on besides plan, data and seed: threads, memory, cache room."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch

from client_app.feature_cache import Computed
from client_app.node_config import NodeSettings
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.plan import TrainConfig
from models.training.data import Split


def use_threads(node: NodeSettings, config: TrainConfig) -> None:
    """Give torch the CPU threads of a run: ``train.threads``, at most the site's own ``threads``.

    Where neither is set, torch has the threads that this process began with, whatever another run
    asked for before.
    """
    began_with = _threads_of_the_process()
    limits = [each for each in (node.threads, config.threads) if each is not None]
    wanted = min(limits, default=began_with)
    # A call that changes nothing would still switch off MKL's own choice of threads.
    if limits or torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def numerics_of(splits: Iterable[Split], micro_batches: int, batched_sites: int = 1) -> Numerics:
    """Return what this process computes with.

    Parameters
    ----------
    splits : iterable of Split
        The site's, as the trained layers take them.
    micro_batches : int
        Into how many parts each batch is cut.
    batched_sites : int
        Sites that train as one batched computation.
    """
    uncached = sum(isinstance(split.inputs, Computed) for split in splits)
    return Numerics(torch.get_num_threads(), micro_batches, uncached, batched_sites)


@cache
def _threads_of_the_process() -> int:
    """Return the threads that torch had when this was first called."""
    return torch.get_num_threads()
