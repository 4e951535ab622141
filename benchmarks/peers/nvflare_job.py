"""Submits a job of FedAvg to a server of NVFlare and waits for its end; runs in NVFlare's environment."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.model import PTModel
from nvflare.fuel.flare_api.flare_api import new_secure_session
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner

SITE = Path(__file__).with_name("nvflare_site.py")
CONNECT = 60.0  # seconds for the server to answer


def make_job(options: argparse.Namespace) -> FedJob:
    """Return the job: the controller and the model at the server, the script at each site."""
    job = FedJob("rounds", min_clients=options.sites)
    job.to_server(FedAvg(num_clients=options.sites, num_rounds=options.rounds))
    job.to_server(PTModel({"path": "stock.task.network", "args": {"name": "resnet18"}}))
    arguments = ["--data", str(options.data), "--seconds", str(options.seconds)]
    arguments += ["--batch-size", str(options.batch_size), "--lr", str(options.lr)]
    job.to_clients(ScriptRunner(str(SITE), script_args=shlex.join(arguments)))
    return job


def main() -> None:
    """Submit the job of the command line; exit with its status where that is not a completed one."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("kit", "folder", "data", "seconds"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("sites", "rounds", "batch-size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--user", required=True)
    options = parser.parse_args()
    make_job(options).export_job(str(options.folder))
    session = new_secure_session(options.user, str(options.kit), timeout=CONNECT)
    try:
        job = session.submit_job(str(options.folder / "rounds"))
        _, meta = session.monitor_job_and_return_job_meta(job, poll_interval=1.0)
    finally:
        session.close()
    if meta["status"] != "FINISHED:COMPLETED":
        sys.exit(f"NVFlare's job ended with the status {meta['status']}")


if __name__ == "__main__":
    main()
