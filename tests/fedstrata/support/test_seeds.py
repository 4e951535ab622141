"""Seeds are fixed by the run's seed and the purpose alone."""

from fedstrata.support.seeds import derive_seed


def test_the_value_is_pinned() -> None:
    # SHA-256 of '[7, "faces", 3]', first 8 bytes, without the lowest bit
    assert derive_seed(7, "faces", 3) == 3380540277934090880


def test_every_label_counts() -> None:
    seeds = [
        derive_seed(7),
        derive_seed(8),
        derive_seed(7, 1),
        derive_seed(7, "1"),
        derive_seed(7, "a", "b"),
        derive_seed(7, "ab"),
        derive_seed(7, "b", "a"),
    ]
    assert len(set(seeds)) == len(seeds)


def test_seeds_fit_63_bits() -> None:
    seeds = [derive_seed(0, index) for index in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
