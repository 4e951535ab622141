"""What sites of simulations reached alone or in one place, kept to be used again by content hash."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from flwr.superlink.grid.grpc_grid import GrpcGrid

import conf
from fedstrata.protocol.answers import RoundReport
from fedstrata.protocol.limits import NAME
from fedstrata.protocol.measured import check_metrics
from fedstrata.protocol.numerics import Numerics
from fedstrata.protocol.plan import Plan
from fedstrata.support import checksums
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError
from fedstrata.support.folders import default_models_dir, model_folder
from fedstrata.support.home import home
from server_app.patience import Log
from server_app.report import versions
from server_app.rounds.checks import check_report
from server_app.sites.members import Member
from server_app.sites.roster import Roster
from strategies.config import BaselinesConfig
from strategies.method import with_rest_in

ALONE, POOLED = "alone", "in one place"
MOST_BYTES = 2**20  # of a file
# Whose code decides what a model trained alone is worth.
CODE = ("client_app", "models", "strategies", "fedstrata/protocol", "fedstrata/support")


@dataclass(frozen=True)
class Reused:
    """What was trained before.

    Parameters
    ----------
    run : str
        The run that trained it.
    report : RoundReport
        As the site answered then.
    """

    run: str
    report: RoundReport


@dataclass(frozen=True)
class BaselineCache:
    """A folder with one file for each site, of the content hash of all that the result depends on.

    Parameters
    ----------
    folder : Path
        Where the files are; each may be deleted at any time.
    run : str
        The run of now.
    plan : Plan
        Its plan, with weights and scale.
    everyone : collection of Member
        All sites of the simulation, or none where some are not known: training in one place
        depends on the data of all.
    log : callable
        Takes text for the log.
    """

    folder: Path
    run: str
    plan: Plan
    everyone: Collection[Member]
    log: Log

    def key(self, what: str, member: Member, numerics: Numerics | None, played: int) -> str:
        """Return the content hash of what decides a site's result, or "" where not all is known.

        ``numerics`` is of an answer of the site in this run: it says with how many threads
        it computes, and whether memory was short. ``played`` is in how many rounds it trains.
        """
        if numerics is None or not _digest(member):
            return ""
        plan = self.plan.of_model(member.report.model)
        encoder = encoder_digest(plan.model.get("folder"))
        if encoder is None:
            return ""
        decides = {
            "what": what,
            "site": _facts(member),
            "device": _device(member.report.device),
            "numerics": asdict(numerics),
            "plan": _plan_of(what, plan),
            "played": played,
            "versions": versions(),
            "encoder": encoder,
            "processor": processor(),
            "code": code_digest(),
        }
        if what == POOLED:
            if not all(map(_digest, self.everyone)) or member not in self.everyone:
                return ""
            own = [each for each in self.everyone if each.report.model == member.report.model]
            decides["sites"] = [_facts(each) for each in own]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def read(self, key: str, member: Member, number: int) -> Reused | None:
        """Return what was trained before under a key, or None; a file that is none is not used."""
        path = self.folder / f"{key}.json"
        try:
            with path.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
            return _read(text, member, number)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.log(f"{path} is not used, and its site is trained anew: {error}")
            return None

    def write(self, key: str, report: RoundReport) -> None:
        """Keep what a site has just reached; where that cannot be, say why and go on."""
        assert report.numerics is not None
        content = {
            "run": self.run,
            "metrics": report.metrics,
            "numerics": asdict(report.numerics),
        }
        try:
            with replacing_private(self.folder / f"{key}.json") as unfinished:
                unfinished.write_text(json.dumps(checksums.with_checksum(content)))
        except OSError as error:
            self.log(f"what sites reach alone is not kept for later runs: {error}")


def _plan_of(what: str, plan: Plan) -> dict[str, Any]:
    """Return what of a site's plan decides the result: alone, the method and its groups do not."""
    chosen: dict[str, Any] = {
        "seed": plan.seed,
        "rounds": plan.rounds,
        "model": plan.model,
        "weights": plan.weights,
        "data": plan.data_options,
        "train": asdict(plan.train),
    }
    if what == ALONE:
        groups = with_rest_in(plan.groups, "personal")
        return {**chosen, "fraction": plan.fraction, "groups": groups}
    return {**chosen, "groups": plan.groups, "method": plan.method}


@dataclass(frozen=True)
class Baselines:
    """What members are also trained as, to compare.

    Parameters
    ----------
    config : BaselinesConfig
        Which of them.
    cache : BaselineCache or None
        What was trained before; None where all is trained anew.
    """

    config: BaselinesConfig
    cache: BaselineCache | None = None


def baselines_of(
    config: BaselinesConfig, cohort: int, roster: Roster, plan: Plan, run: str, log: Log
) -> Baselines:
    """Return what sites are compared with; a simulation's may have been trained before.

    ``cohort`` is how many sites a node has, ``run`` the name of the run.
    """
    if not config.reuse or isinstance(roster.grid, GrpcGrid):
        return Baselines(config)
    everyone = sorted(roster.everyone.values(), key=lambda member: member.site)
    nodes = len(list(roster.grid.get_node_ids())) * cohort
    known = everyone if len(everyone) == nodes else []
    return Baselines(config, BaselineCache(home() / "cache" / "baselines", run, plan, known, log))


def reused_lines(what: str, reused: Mapping[str, str], sites: int) -> list[str]:
    """Return what was not trained again, from which runs."""
    by_run: dict[str, list[str]] = {}
    for site, run in sorted(reused.items()):
        by_run.setdefault(run, []).append(site)
    return [
        f"{what}: reused from {run} for {len(names)} of {sites} sites (baselines.reuse=false trains "
        "them anew)"
        for run, names in by_run.items()
    ]


def processor() -> str:
    """Return the kind of processor, and which of its instructions torch uses."""
    return f"{_processor_name()}, {torch.backends.cpu.get_cpu_capability()}"


@cache
def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


@cache
def code_digest() -> str:
    """Return a SHA-256 of the code that trains: of another version, results can be others."""
    root = Path(conf.__file__).resolve().parents[1]
    seen = hashlib.sha256()
    for path in sorted(path for room in CODE for path in (root / room).rglob("*.py")):
        seen.update(f"{path.relative_to(root)}\n".encode())
        seen.update(hashlib.sha256(path.read_bytes()).digest())
    return seen.hexdigest()


def encoder_digest(folder: object) -> str | None:
    """Return a SHA-256 of what builds a network that is read from a folder; "" for another one.

    Heads and activation show in no weights. None where the folder cannot be read.
    """
    if folder is None:
        return ""
    try:
        described = (model_folder(folder, default_models_dir()) / "config.json").read_bytes()
        return hashlib.sha256(version("transformers").encode() + b"\n" + described).hexdigest()
    except (OSError, UserError, PackageNotFoundError):
        return None


def _digest(member: Member) -> str:
    return member.report.data.digest if member.report.data else ""


def _facts(member: Member) -> list[Any]:
    report = member.report
    kind = asdict(report.kind)
    return [report.site, report.task, kind, report.classes, report.input_shape, _digest(member)]


def _device(name: str) -> str:
    if not name.startswith("cuda") or not torch.cuda.is_available():
        return name
    return f"{name}: {torch.cuda.get_device_name(name)}"


def _read(text: bytes, member: Member, number: int) -> Reused:
    """Return what a file says; raise ValueError and its like for anything else."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    content = checksums.checked(json.loads(text))
    if not isinstance(content["run"], str) or not NAME.fullmatch(content["run"]):
        raise ValueError("it names no run")
    numerics = Numerics(**content["numerics"])
    numerics.check()
    metrics = content["metrics"]
    if not isinstance(metrics, dict) or not all(
        isinstance(each, dict) for each in metrics.values()
    ):
        raise ValueError("its metrics are none")
    check_metrics(metrics)
    report = RoundReport(
        site=member.site,
        round=number,
        examples=member.report.examples["train"],
        steps=0,
        planned=0,
        loss=0.0,
        seconds=0.0,
        metrics=metrics,
        error="",
        numerics=numerics,
    )
    check_report(report, member, number, 0.0)
    return Reused(content["run"], report)
