"""results.json of a made-up run, with each kind of task, faults, fine-tuning and classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from fedstrata.runs.results import Results

HOSTILE = '<script>alert("1")</script>'


def measured(task: str, value: float, **more: Any) -> dict[str, Any]:
    """Return the measures of a site or a task."""
    kind = {"age": "number", "chest": "labels"}.get(task, "classes")
    lead = {"number": "mae", "labels": "auroc", "classes": "accuracy"}[kind]
    unit = {"unit": "years"} if kind == "number" else {}
    return {"task": task, "kind": kind, lead: value, "loss": 0.5, "examples": 20.0, **unit, **more}


def final() -> dict[str, Any]:
    """Return the last state's measures."""
    classes = {
        "by_class": {
            HOSTILE: {"sensitivity": 0.875, "specificity": 0.5, "ppv": None, "f1": 0.61},
            "well": {"sensitivity": 0.5, "specificity": 0.875},
        },
        "confusion": [[7, 1], [6, 6]],
        "calibration": {"error": 0.0625, "bins": [None, [0.15, 0.2, 0.4], [0.95, 0.8, 0.6]]},
        "roc": {HOSTILE: [0.0, 0.7, 1.0], "well": [0.0, 0.6, 1.0]},
    }
    grade = {"majority_accuracy": 0.625, "alone_accuracy": 0.55, "pooled_accuracy": 0.9}
    sites = {
        "north": measured("grade", 0.8125, interval=[0.6, 0.95], **grade),
        "south": measured("grade", 0.40625, interval=[0.3, 0.6], **grade),
        "east": measured("age", 6.25, baseline_mae=9.8, alone_mae=7.5),
        "west": measured("chest", 0.84375, baseline_auroc=0.5, alone_auroc=0.8),
    }
    about = {"sites": 2, "spread": 0.203125, "worst": {"site": "south", "accuracy": 0.40625}}
    tasks = {
        "grade": measured("grade", 0.609375, **grade, **about, **classes),
        "age": measured("age", 6.25, baseline_mae=9.8, alone_mae=7.5, sites=1),
        "chest": measured("chest", 0.84375, baseline_auroc=0.5, alone_auroc=0.8, sites=1),
    }
    refused = {"late-one": f"no answer {HOSTILE}"}
    return {"tasks": tasks, "sites": sites, "mean": None, "refused": refused, "late": {}}


def a_round(number: int, **more: Any) -> dict[str, Any]:
    """Return a round."""
    at_sites = {
        "north": measured("grade", 0.5 + number / 32),
        "south": measured("grade", 0.25 + number / 32),
    }
    return {
        "round": number,
        "seconds": 1.5,
        "bytes_down": {"common": 1000, "task": 200},
        "bytes_up": {"common": 900, "task": 100},
        "participants": list(at_sites),
        "tasks": {"grade": measured("grade", 0.375 + number / 32)},
        "sites": at_sites,
        **more,
    }


def cross_site(of: str = "updates") -> dict[str, Any]:
    """Return a cross-site table of two tasks, of which one site takes no part."""

    def grade(value: float) -> dict[str, Any]:
        return {"accuracy": value, "loss": 0.5, "examples": 20.0}

    models = {
        "north": {"north": grade(0.796875), "south": grade(0.390625)},
        "south": {"north": grade(0.703125)},
    }
    return {
        "of": of,
        "state": "last",
        "round": 3,
        "tasks": {
            "grade": {"kind": "classes", "models": models},
            "age": {"kind": "number", "unit": "years", "models": {"east": {}}},
        },
        "missing": [{"model": "south", "data": "south", "reason": f"damaged {HOSTILE}"}],
        "left_out": {"east": "refused by the site"},
    }


def run_results(count: int = 3, /, **more: Any) -> dict[str, Any]:
    """Return results.json as plain data."""
    row = {"tensors": 2, "parameters": 75_000, "bytes": 300_000, "trained": True}
    rows = [
        {**row, "group": "pretrained", "tensors": 0, "parameters": 0, "sent_to": "nobody"},
        {**row, "group": "common", "sent_to": "all sites"},
        {**row, "group": "personal", "parameters": 25_000, "sent_to": "nobody"},
    ]
    site = {"kind": "classes", "classes": [HOSTILE, "well"], "device": "cpu"}
    each = [a_round(number) for number in range(1, count + 1)]
    if count > 1:
        each[1]["late"] = {"south": "no answer within 3 s"}
    config = {
        "seed": 7,
        "model": {"name": "resnet18"},
        "data": {"name": "faces"},
        "method": {"name": "layers"},
        "groups": {"common": ["..."], "personal": ["head.out"]},
        "train": {"epochs": 2, "steps": None, "batch_size": 16},
        "strategy": {"rounds": count, "fraction": 1.0},
        "weights": {"path": HOSTILE},
    }
    return {
        "run": "made-up",
        "federation": "made-up",
        "config": config,
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "seed": 7,
        "weights": {"content_hash": "ab" * 32, "source": "central"},
        "partition": {"grade": rows, "age": rows},
        "coding": {"common": {"up": {"name": "int8"}, "down": {"name": "exact"}}},
        "sites": {
            name: {**site, "task": "grade", "examples": {"train": 40, "test": 20}}
            for name in ("north", "south", "east", "west")
        },
        "rounds": each,
        "participation": {
            "north": ["took part"] * count,
            "south": (["took part", "late", "refused"] * count)[:count],
        },
        "final": final() if count else None,
        "deployment": None,
        **more,
    }


def typed(plain: dict[str, Any]) -> Results:
    """Return results as the report reads them."""
    return msgspec.convert(plain, Results)


def write_run(folder: Path, **more: Any) -> Path:
    """Write results.json of a run and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(run_results(**more)))
    return folder
