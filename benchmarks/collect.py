"""One page of all results: `python -m benchmarks.collect` writes RESULTS.md.

Each result is a table and its JSON in benchmarks/results/. What a person adds to it is in
`<name>.remarks.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TITLES = {
    "table4": "Table IV: human activity recognition, 30 subjects as 30 tasks",
    "table3-drawn": "Table III: five questions, 100 sites, drawn faces",
    "table3-utkface": "Table III: three questions, 30 sites, real faces",
    "transfer": "Every way of transfer",
    "personalised": "Personalised methods over the same sites",
    "heterogeneous": "Sites with different networks",
    "methods": "What a method's training costs",
    "deployment": "Personalised deployment: before and after, alone, pooled, newcomers",
    "tables-heart": "Tables: four hospitals beside scikit-learn",
    "rounds": "A deployed round: stock Flower, a process per message, a warm process",
    "wire-faces": "Bytes of a site and round, and accuracy: drawn faces",
    "wire-har": "Bytes of a site and round, and accuracy: activities",
    "codings": "What each coding makes of one update",
    "cache": "The feature cache: float32 and float16",
    "simulate": "Many simulated sites on one machine",
    "data": "Loading pictures: torchvision and ours",
    "stacks": "Many small sites on one device: one after the other and stacked",
    "local": "Training at one site: the tutorial loop and ours",
    "attacks": "One bad site: rules of aggregation against attacks",
    "aggregate": "Aggregating replies: Flower and ours",
    "startup": "What starts take",
    "faults": "Faults on purpose: killed, paused, cut off",
}
OPENING = """# Results

Written by `python -m benchmarks.collect` from [results/](results).

- **Federated rows** of a table of accuracies come from the product's ServerApp and ClientApp in Flower's
  simulation. Deployed rounds and faults are real processes over real sockets, as said there.
- **"Pooled", "centralized" and "joint" rows** have the data of all sites in one place. Trainer, networks,
  groups and number of passes are the same.
- **"Alone" and "separate" rows** are method `local`.
- **Figures** are means ± standard deviation over the seeds, of the last round, on the test data. Test
  data chose nothing, unless a table says so.
- **The JSON beside each table** has every seed's value. Beside tables III and IV, transfer and deployment
  it also has the curves, and the `flwr run` command of every row that is a run of its own.
  Central rows, the majority class and rows taken from another row's run have none.
"""


def page(folder: Path) -> str:
    """Return the page for the results in ``folder``."""
    parts = [OPENING]
    paths = sorted(folder.glob("*.json"), key=lambda path: (_place(path.stem), path.stem))
    last = None
    for path in paths:
        title = _title(path.stem)
        if title != last:
            parts.append(f"## {title}\n")
            last = title
        parts.append(_section(folder, path.stem, json.loads(path.read_text())))
    return "\n".join(parts)


def _section(folder: Path, name: str, result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    lines = [(folder / f"{name}.md").read_text()]
    remarks = folder / f"{name}.remarks.md"
    if remarks.exists():
        lines.append(remarks.read_text())
    for picture in sorted(folder.glob(f"{name}*.png")):
        if picture.stem in (name, f"{name}-sites", f"{name}-random", f"{name}-blocks"):
            lines.append(f"![{picture.stem}](results/{picture.name})\n")
    lines.append(
        f"`{result['command']}`; {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gib']} GiB; {packages}.\n"
    )
    return "\n".join(lines)


def _title(name: str) -> str:
    return next(title for start, title in TITLES.items() if name.startswith(start))


def _place(name: str) -> int:
    return next(i for i, start in enumerate(TITLES) if name.startswith(start))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collect", description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--page", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args(arguments)
    options.page.write_text(page(options.results))
    print(f"written: {options.page}")


if __name__ == "__main__":
    main()
