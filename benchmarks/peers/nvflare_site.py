"""What a site of NVFlare runs in each round, over its Client API; started by NVFlare in its environment.

Network, data and loops are those of the stock app, whose folder is on the path.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nvflare.client as flare
import torch
from nvflare.apis.fl_constant import FLMetaKey
from stock.task import load_data, network, test, train


def main() -> None:
    """Evaluate each model that is received, train it, and send it back; note the seconds of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of <index>.npz")
    parser.add_argument("--seconds", type=Path, required=True, help="folder for <site>.jsonl")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    flare.init()
    site = flare.get_site_name()  # site-<index>
    path = options.data / f"{site.rpartition('-')[2]}.npz"
    loader, test_loader = load_data(str(path), options.batch_size)
    model = network("resnet18")
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        started = time.perf_counter()
        model.load_state_dict(received.params)
        _, accuracy = test(model, test_loader)
        train(model, loader, 1, options.lr)
        noted = {"round": received.current_round, "seconds": time.perf_counter() - started}
        with (options.seconds / f"{site}.jsonl").open("a") as file:
            file.write(f"{json.dumps(noted)}\n")
        answer = flare.FLModel(
            params=model.state_dict(),
            metrics={"accuracy": accuracy},
            # The weight of the site in the average.
            meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: len(loader.dataset)},
        )
        flare.send(answer)


if __name__ == "__main__":
    main()
