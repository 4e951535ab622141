"""What a site computed with, as its reports carry it, and the limits of what is accepted of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fedstrata.protocol.limits import Refused

# The least and the most of each number. Beyond these it is no fact about a machine, and a number
# that may be anything could carry something else.
BOUNDS = {
    "threads": (1, 4096),
    "micro_batches": (1, 2**16),
    "uncached_splits": (0, 3),  # train, validation and test
    "batched_sites": (1, 10_000),  # as many as a node may hold
}


@dataclass(frozen=True)
class Numerics:
    """What a site computed with, where that changes the last digits of its numbers.

    Parameters
    ----------
    threads : int
        CPU threads of torch: another number of them takes sums in another order.
    micro_batches : int
        Into how many parts each batch was cut because memory was short; 1 for whole batches.
    uncached_splits : int
        Splits for which the feature cache had no room: the frozen layers ran for every batch.
    batched_sites : int
        Sites of a cohort that trained as one batched computation; 1 for a site by itself.
    """

    threads: int
    micro_batches: int = 1
    uncached_splits: int = 0
    batched_sites: int = 1

    def check(self) -> None:
        """Raise Refused for a number that cannot be."""
        for name, value in asdict(self).items():
            least, most = BOUNDS[name]
            if not least <= value <= most:
                raise Refused(f"numerics.{name} is {value}, not between {least} and {most}")
