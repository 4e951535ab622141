"""The example on the page about methods is a method that runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from client_app.store import DiskStore
from strategies import methods
from strategies.method import Method
from tests.helpers.runs import DOCS, SMALL, same, states
from tests.loopback import simulate

PAGE = (DOCS / "write-a-method.md").read_text()
EXAMPLE = re.compile(r"<!-- example: the tests run this -->\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Method]:
    found = EXAMPLE.search(PAGE)
    assert found is not None
    (tmp_path / "head_first_example.py").write_text(found[1])
    monkeypatch.syspath_prepend(tmp_path)
    made: type[Method] = importlib.import_module("head_first_example").HeadFirst
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, made.name: made})
    return made


def test_the_example_runs_and_without_its_epochs_it_is_fedper(
    example: type[Method], tmp_path: Path
) -> None:
    def run(*overrides: str) -> tuple[dict[str, object], dict[str, object]]:
        folder = tmp_path / overrides[-1]
        results, _ = simulate(folder, "faces", [*SMALL, *overrides], sites=2)
        return results, states(folder, str(results["run"]))  # type: ignore[return-value]

    own = ["method.name=head_first", "+method.head_epochs=2"]
    results, trained = run(*own)
    steps = results["rounds"][0]["sites"]["site-00"]["steps"]  # type: ignore[index]
    assert steps == 3 * 3  # 24 examples in batches of 8: two passes for the head, one for all
    folder = tmp_path / own[-1]
    kept = DiskStore(folder, str(results["federation"]), "site-00").before(3)
    assert kept is not None
    assert int(kept.memory["rounds"]) == 2
    _, off = run("method.name=head_first", "+method.head_epochs=0")
    _, fedper = run("method=fedper")
    assert same(off, fedper)  # type: ignore[arg-type]
    assert not same(trained, fedper)  # type: ignore[arg-type]


def test_the_page_names_every_function_that_a_method_can_override() -> None:
    named = set(re.findall(r"\| `(\w+)\(", PAGE))
    public = {name for name in vars(Method) if not name.startswith("_")}
    own = {name for name in public if callable(getattr(Method, name))} - {"sent_groups"}
    assert own <= named
