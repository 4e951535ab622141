"""How many built models a process keeps."""

from __future__ import annotations

from client_app.kept_models import KeptModels


def test_models_are_kept_up_to_a_size_and_the_least_used_goes_first() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name

    kept = KeptModels[str](len, most=9)
    for name in ("aaa", "bbb", "ccc", "aaa", "ddd", "aaa", "bbb"):
        assert kept.get(name, lambda name=name: make(name)) == name  # type: ignore[misc]
    assert made == ["aaa", "bbb", "ccc", "ddd", "bbb"]
    assert len(kept) == 3


def test_two_are_kept_however_large_they_are() -> None:
    kept = KeptModels[str](len, most=1)
    for name in ("aaa", "bbb", "ccc"):
        kept.get(name, lambda name=name: name)  # type: ignore[misc]
    assert len(kept) == 2
    kept.clear()
    assert len(kept) == 0
