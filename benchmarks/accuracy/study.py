"""Cases over the same sites: which runs are needed, which exist already, and their results."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.flower.simulator import SimulationFailed, Simulator
from benchmarks.flower.site_data import sites_data
from benchmarks.report.command_line import without_folders
from server_app.compose import compose
from server_app.report import versions
from strategies.config import Config

AT_ONCE = 24  # runs in one `flwr run`, which start Flower and Ray once


@dataclass(frozen=True)
class Case:
    """One row of a table: its name, and the overrides that make it."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Runs of one experiment over the same sites.

    Parameters
    ----------
    name : str
        Of the folder of its runs, which `folder` makes of it.
    experiment : str
        A file of conf/experiment.
    sites : int
        Sites of the simulation.
    data_root : Path or None
        Absolute.
    overrides : tuple of str
        What all cases have.
    seeds : tuple of int
        Each case runs with each of them.
    weights : Path or None
        The file or folder of weights that cases start from, where there is one.
    nodes : int or None
        SuperNodes, of equally many sites each (cohorts); None for one a site.
    """

    name: str
    experiment: str
    sites: int
    data_root: Path | None
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    weights: Path | None = None
    nodes: int | None = None

    @property
    def supernodes(self) -> int:
        """How many SuperNodes there are."""
        return self.sites if self.nodes is None else self.nodes

    @property
    def folder(self) -> str:
        """The folder of the runs; its name has what their configuration does not say."""
        read = [path for path in (self.data_root, self.weights) if path is not None]
        name = f"{self.name}-{self.sites}-sites"
        return f"{name}-{stamp(read)}" if read else name

    def configured(self, case: Case, seed: int) -> tuple[str, ...]:
        """Return all overrides of one run."""
        return (*self._shared(), *case.overrides, f"seed={seed}")

    def _shared(self) -> tuple[str, ...]:
        cohorts = () if self.nodes is None else (f"cohort.sites={self.sites // self.nodes}",)
        return (*self.overrides, *cohorts)

    def config(self, case: Case, seed: int) -> Config:
        """Return the whole configuration of one run."""
        return composed(self.experiment, self.configured(case, seed))

    def command(self, case: Case) -> str:
        """Return what a user types for this case."""
        seeds = f"seed={','.join(map(str, self.seeds))}"
        overrides = " ".join([*self._shared(), *case.overrides, seeds])
        root = f' data-root="{self.data_root}"' if self.data_root else ""
        federation = f"--federation-config 'num-supernodes={self.supernodes}'"
        return without_folders(
            f"flwr run . --stream {federation} "
            f'-c \'experiment="{self.experiment}"{root} overrides="{overrides}"\''
        )

    def run(self, simulator: Simulator, cases: Sequence[Case]) -> dict[str, list[dict[str, Any]]]:
        """Return results.json of each case, one per seed; finished runs are not run again.

        Raises
        ------
        SimulationFailed
            Where a run left no results.
        """
        output = simulator.folder / "runs" / self.folder
        wanted = {
            _key(self.config(case, seed).to_dict()): self.configured(case, seed)
            for case in cases
            for seed in self.seeds
        }
        done = finished(output)
        missing = [overrides for key, overrides in wanted.items() if key not in done]
        if missing:
            print(f"{self.name}: {len(wanted) - len(missing)} of {len(wanted)} runs are done")
        for start in range(0, len(missing), AT_ONCE):
            sets = " ; ".join(" ".join(overrides) for overrides in missing[start : start + AT_ONCE])
            run_config = {
                "experiment": self.experiment,
                "data-root": str(self.data_root or ""),
                "output-dir": str(output),
                "overrides": sets,
            }
            simulator.run(self.name, self.supernodes, run_config)
            tidy(output)
        found = finished(output)
        lost = [overrides for key, overrides in wanted.items() if key not in found]
        if lost:
            raise SimulationFailed(
                f"{self.name}: {len(lost)} runs left no results, the first with "
                f"{' '.join(lost[0])}; see {simulator.folder / 'logs'}"
            )
        return {
            case.name: [found[_key(self.config(case, seed).to_dict())] for seed in self.seeds]
            for case in cases
        }

    def run_centrally(
        self, simulator: Simulator, case: Case, *, joint: bool = True
    ) -> list[dict[str, Any]]:
        """Return what `central` returns for ``case``, one per seed; saved as runs are.

        Each has ``versions``, too: of the packages that made it.

        Raises
        ------
        SimulationFailed
            It is not finished, and nothing is to be run.
        """
        from benchmarks.accuracy.central import central

        made = []
        for seed in self.seeds:
            config = self.config(case, seed)

            def train(config: Config = config) -> dict[str, Any]:
                if not simulator.plays:
                    raise SimulationFailed(f"{self.name}: training in one place is not finished")
                sites = sites_data(config, self.sites, self.data_root)
                cache = simulator.folder / "home" / "cache"
                return central(config, sites, cache, joint=joint, gpu=simulator.gpus > 0)

            folder = simulator.folder / "central" / self.folder
            made.append(load_or_make(folder, [deciding(config.to_dict()), joint], train))
        return made


@dataclass(frozen=True)
class Sites:
    """The configuration of the data of sites.

    Parameters
    ----------
    name : str
        Of the folder and the files.
    title : str
        For people.
    experiment : str
        A file of conf/experiment.
    sites : int
        SuperNodes.
    root : Path or None
        The data, absolute.
    overrides : tuple of str
        Data, its split among the sites, and training.
    """

    name: str
    title: str
    experiment: str
    sites: int
    root: Path | None
    overrides: tuple[str, ...]

    def study(
        self, table: str, seeds: tuple[int, ...], *first: str, weights: Path | None = None
    ) -> Study:
        """Return the runs of a table over these sites; their own overrides come after ``first``."""
        overrides = (*first, *self.overrides)
        name = f"{table}-{self.name}"
        return Study(name, self.experiment, self.sites, self.root, overrides, seeds, weights)


@cache  # a study asks for each configuration several times
def composed(experiment: str, overrides: tuple[str, ...]) -> Config:
    """Return the configuration of an experiment with these overrides."""
    return compose(experiment, overrides)


def stamp(paths: Iterable[Path]) -> str:
    """Return 8 hex digits that change with these files and folders.

    They depend on the name and size of each; of a folder, on its files' number and total size.
    """
    described = []
    for path in paths:
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        described.append((path.name, len(files), sum(each.stat().st_size for each in files)))
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:8]


def finished(output: Path) -> dict[str, dict[str, Any]]:
    """Return results.json of every run under ``output`` that reached its end, by configuration."""
    found = {}
    for path in sorted(output.glob("*/results.json")):
        results = json.loads(path.read_text())
        if _over(results):
            found[_key(results["config"])] = results
    return found


def tidy(output: Path) -> None:
    """Delete checkpoints and personal layers of finished runs; results.json stays."""
    for path in output.glob("*/results.json"):
        if _over(json.loads(path.read_text())):
            for folder in ("checkpoints", "sites"):
                shutil.rmtree(path.parent / folder, ignore_errors=True)


def _over(results: Mapping[str, Any]) -> bool:
    """Return whether a run reached its end: that of the fine-tuning, where there is any."""
    tuned = not results["config"]["deployment"]["epochs"] or results["deployment"] is not None
    return results["final"] is not None and tuned


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(deciding(config), sort_keys=True)


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` without what changes no result of a simulation.

    That is what a run does about lost sites, since a simulation loses none. Exact coding and a
    ``data.seed`` of null are left out, too: runs from before there was a choice do not name them.
    """
    strategy = {k: v for k, v in config["strategy"].items() if k not in ("give_up", "minimum")}
    for key in ("coding", "coding_down"):
        chosen = {g: c for g, c in strategy.pop(key, {}).items() if c != {"name": "exact"}}
        strategy |= {key: chosen} if chosen else {}
    data = {key: value for key, value in config["data"].items() if (key, value) != ("seed", None)}
    return {**config, "data": data, "strategy": strategy}


def load_or_make(folder: Path, what: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``make`` returns, with ``versions``; saved in ``folder`` under ``what`` it is of."""
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    path = folder / f"{key[:24]}.json"
    if not path.exists():
        made = make()
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")  # renamed when whole: a killed write leaves no result
        unfinished.write_text(json.dumps({**made, "versions": versions()}))
        unfinished.rename(path)
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded
