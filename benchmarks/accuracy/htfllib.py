"""HtFLlib (Zhang et al., KDD 2025) on the same shards: its own process, as with PFLlib.

Its servers of FedKTL need generators that its repository does not have, and are imported whichever
method is played. So they are replaced by empty ones in the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.accuracy.pfllib import FinishedPeer, Flags, Peer

NAMES: Mapping[str, str] = {
    "local": "Local",
    "lg_fedavg": "LG-FedAvg",
    "fd": "FD",
    "fedproto": "FedProto",
    "fedtgp": "FedTGP",
    "fedgh": "FedGH",
    "fedgen": "FedGen",
}
"""Our methods, and HtFLlib's names of them. FML and FedKD have other small networks there."""

FLAGS: Flags = {
    "fd": {"weight": ("-lam", 1)},
    "fedproto": {"weight": ("-lam", 1)},
    "fedtgp": {
        "weight": ("-lam", 1),
        "epochs": ("-se", 1),
        "rate": ("-slr", 1),
        "margin": ("-mart", 1),
    },
    "fedgh": {"rate": ("-slr", 1)},
    "fedgen": {
        "noise": ("-nd", 1),
        "hidden": ("-hd", 1),
        "rate": ("-glr", 1),
        "steps": ("-se", 1),
    },
}
# Its own data loader never shuffles, which ours does in every epoch; `write_shards` does once.
NOTE = (
    "HtFLlib plays one run: it fixes its own seed. It has the same training and test examples, "
    "networks, rate, batch size, passes, rounds and options of the method. It leaves out the last "
    "batch where it is not full, takes the examples in one shuffled order in every pass, clips nothing, "
    "and gets no validation data. FedProto and FedTGP predict by the nearest prototype there: "
    "compare `fedproto:predict=nearest`."
)
KTL = ("stylegan_xl", "stylegan_3", "stable_diffusion")
PROGRAM = """
import runpy, sys, types
main = sys.argv.pop(1)
sys.path.insert(0, main.rpartition("/")[0])
for name in {names}:
    module = types.ModuleType(name)
    module.FedKTL = None
    sys.modules[name] = module
sys.argv[0] = main
runpy.run_path(main, run_name="__main__")
""".format(names=[f"flcore.servers.serverktl_{each}" for each in KTL])


@dataclass(frozen=True)
class HtPeer(Peer):
    """A checkout of HtFLlib, and the Python of its environment."""

    library: ClassVar[str] = "HtFLlib"
    names: ClassVar[Mapping[str, str]] = NAMES
    known_flags: ClassVar[Flags] = FLAGS
    note: ClassVar[str] = NOTE

    def program(self) -> list[str]:
        """Return what Python runs."""
        return ["-c", PROGRAM, str(self.checkout / "system" / "main.py")]


class FinishedHtPeer(FinishedPeer, HtPeer):
    """Plays nothing: what is not finished has no figures."""
