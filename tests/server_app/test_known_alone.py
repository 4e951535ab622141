"""What sites reach alone is known in the rounds, where another run trained it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedstrata.protocol.data_description import DataDescription
from fedstrata.protocol.numerics import Numerics
from server_app.baseline_cache import ALONE, BaselineCache
from server_app.known_alone import KnownAlone
from tests.helpers.members import member, round_report
from tests.helpers.plans import plan_of


def test_each_site_is_looked_for_once_as_it_would_train_alone(tmp_path: Path) -> None:
    members = {n: member(n, data=DataDescription(digest="ab" * 32)) for n in ("north", "south")}
    cache = BaselineCache(tmp_path, "march", plan_of("faces"), [], lambda _: None)
    report = round_report(numerics=Numerics(1))
    cache.write(cache.key(ALONE, members["north"], report.numerics, 3), report)
    alone = KnownAlone(cache, 3)
    batched: dict[str, Any] = {"numerics": asdict(replace(Numerics(1), batched_sites=8))}
    alone.look(members, {"north": batched, "stranger": batched})
    assert alone.values == {"north": report.metrics["test"]["accuracy"]}
    for path in tmp_path.iterdir():
        path.unlink()
    alone.look(members, {"north": batched, "south": batched})
    assert alone.values.keys() == {"north"}


def test_other_rounds_or_no_cache_know_nothing(tmp_path: Path) -> None:
    members = {"north": member("north", data=DataDescription(digest="ab" * 32))}
    cache = BaselineCache(tmp_path, "march", plan_of("faces"), [], lambda _: None)
    report = round_report(numerics=Numerics(1))
    cache.write(cache.key(ALONE, members["north"], report.numerics, 3), report)
    for alone in (KnownAlone(cache, 4), KnownAlone(None, 3)):
        alone.look(members, {"north": {"numerics": asdict(Numerics(1))}})
        assert alone.values == {}
