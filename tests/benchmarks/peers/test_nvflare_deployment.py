"""NVFlare's startup kits are asked for, and its rounds are read from what it leaves."""

from __future__ import annotations

from datetime import datetime

import pytest

from benchmarks.peers.nvflare_deployment import (
    project,
    round_ends,
    slowest,
)

CONTEXT = "[identity=rounds, run=3e4a, wf=controller, peer=site-0, task_name=train]"
# As NVFlare 2.9.0 writes it, with other lines between.
ROUND = """
2026-12-01 02:45:{0:02d},177 - FedAvg - INFO - {1} - Aggregated 1/2 results
2026-12-01 02:45:{0:02d},178 - ServerRunner - INFO - {1} - finished processing client result by controller
2026-12-01 02:45:{0:02d},382 - FedAvg - INFO - {1} - Aggregated 2/2 results
2026-12-01 02:45:{0:02d},532 - FedAvg - INFO - {1} - Start persist model on server.
2026-12-01 02:45:{0:02d},750 - FedAvg - INFO - {1} - End persist model on server.
2026-12-01 02:45:{0:02d},751 - FedAvg - INFO - {1} -
--------------------------------------------------------------------------------
                                Round 1 started.
--------------------------------------------------------------------------------
"""
LOG = ROUND.format(46, CONTEXT) + ROUND.format(57, CONTEXT)
NOTES = [
    '{"round": 0, "seconds": 3.5}\n{"round": 1, "seconds": 2.5}\n',
    '{"round": 0, "seconds": 3.0}\n{"round": 1, "seconds": 4.0}\n',
]


def test_a_round_ends_when_its_average_is_saved() -> None:
    first, second = round_ends(LOG, 2, 2)
    assert first == datetime(2026, 12, 1, 2, 45, 46, 750_000).timestamp()
    assert second - first == pytest.approx(11.0)


def test_a_round_that_is_not_in_the_log_is_an_error() -> None:
    with pytest.raises(SystemExit, match="the ends of 2 rounds, not 3"):
        round_ends(LOG, 2, 3)


def test_an_average_without_a_site_is_an_error() -> None:
    with pytest.raises(SystemExit, match="3 answers of 4 came"):
        round_ends(LOG.replace("Aggregated 2/2", "Rejected 2/2", 1), 2, 2)
    with pytest.raises(SystemExit, match="4 answers of 6 came"):
        round_ends(LOG, 3, 2)


def test_the_slowest_site_counts() -> None:
    assert slowest(NOTES, 2) == [3.5, 4.0]


def test_a_site_that_missed_a_round_is_an_error() -> None:
    with pytest.raises(SystemExit, match="site-1 noted the rounds"):
        slowest([NOTES[0], NOTES[1].splitlines()[0]], 2)
    with pytest.raises(SystemExit, match="site-0 noted the rounds"):
        slowest(["", NOTES[1]], 2)


def test_a_project_has_a_server_the_sites_and_an_operator() -> None:
    asked = project(2, 1234, 1235)
    participants = asked["participants"]
    assert isinstance(participants, list)
    kinds = {each["name"]: each["type"] for each in participants}
    assert kinds == {
        "localhost": "server",
        "site-0": "client",
        "site-1": "client",
        "operator@bench.org": "admin",
    }
    (server,) = [each for each in participants if each["type"] == "server"]
    assert (server["fed_learn_port"], server["admin_port"]) == (1234, 1235)
