"""What a site says that it computed with is accepted within its limits only."""

from __future__ import annotations

import pytest

from fedstrata.protocol.limits import Refused
from fedstrata.protocol.numerics import Numerics


@pytest.mark.parametrize("numerics", [Numerics(1), Numerics(4096, 2**16, 3, 10_000)])
def test_numbers_within_the_limits_are_accepted(numerics: Numerics) -> None:
    numerics.check()


@pytest.mark.parametrize(
    ("numerics", "reason"),
    [
        (Numerics(0), "numerics.threads is 0"),
        (Numerics(4097), "numerics.threads is"),
        (Numerics(1, micro_batches=0), "numerics.micro_batches is 0"),
        (Numerics(1, uncached_splits=-1), "numerics.uncached_splits is -1"),
        (Numerics(1, uncached_splits=4), "numerics.uncached_splits is 4, not between 0 and 3"),
        (Numerics(1, batched_sites=0), "numerics.batched_sites is 0"),
    ],
)
def test_a_number_that_cannot_be_is_refused(numerics: Numerics, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        numerics.check()
