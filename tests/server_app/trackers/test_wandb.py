"""Weights & Biases offline: its own files have the numbers of results.json, and nothing is sent."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_app.trackers.logged import of_round
from server_app.trackers.wandb import STEP, Wandb
from tests.helpers.runs import SMALL
from tests.loopback import simulate

pytest.importorskip("wandb")


BLOCK, HEAD = 32_768, struct.Struct("<IHB")  # of LevelDB's log: checksum, length, kind of part


def parts(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file, which is a log of LevelDB after seven bytes."""
    place, whole = 7, b""
    while place + HEAD.size <= len(data):
        if (left := BLOCK - place % BLOCK) < HEAD.size:
            place += left
            continue
        _, length, kind = HEAD.unpack_from(data, place)
        whole += data[place + HEAD.size : place + HEAD.size + length]
        place += HEAD.size + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def records(folder: Path) -> list[Any]:
    """Return what is in the files of a run, in order."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in parts(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found.append(record)
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def test_a_run_writes_its_rounds_and_goes_on_as_the_same_run(tmp_path: Path) -> None:
    overrides = [*SMALL, "tracker=wandb"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=2, name="one")
    folder = tmp_path / "one"
    rows = {row[STEP]: row for row in history(folder)}
    for record in results["rounds"]:
        wanted = of_round(record)
        assert {name: rows[record["round"]][name] for name in wanted} == wanted
    again = Wandb({"name": "wandb", "project": "p", "entity": "", "mode": "offline"}, folder)
    known = json.loads((folder / "tracker.json").read_text())
    begun = [r.run for r in records(folder) if r.WhichOneof("record_type") == "run"]
    assert begun[0].run_id in json.dumps(known)
    assert again.begin(begun[0].run_id, 3) == begun[0].run_id
    again.metrics({"task/gender/accuracy": 0.5}, 3)
    again.end("stopped")
    for _ in range(100):  # its own process writes the file, also after it said that it was done
        if (last := history(folder)[-1]).get("task/gender/accuracy") == 0.5:
            break
        time.sleep(0.1)
    assert last["task/gender/accuracy"] == 0.5
    assert not begun[0].host  # nothing of the machine
