"""The methods by name: each is one file with both halves, the site's and the server's."""

from collections.abc import Mapping
from typing import Any

from fedstrata.support.options import read_options
from fedstrata.support.registry import find
from strategies.method import Method
from strategies.methods.apfl import APFL
from strategies.methods.dbe import DBE
from strategies.methods.ditto import Ditto
from strategies.methods.fd import FD
from strategies.methods.fedala import FedALA
from strategies.methods.fedavg import FedAvg
from strategies.methods.fedbn import FedBN
from strategies.methods.fedcp import FedCP
from strategies.methods.fedgen import FedGen
from strategies.methods.fedgh import FedGH
from strategies.methods.fedkd import FedKD
from strategies.methods.fedktl import FedKTL
from strategies.methods.fedper import FedPer
from strategies.methods.fedproto import FedProto
from strategies.methods.fedprox import FedProx
from strategies.methods.fedrep import FedRep
from strategies.methods.fedtgp import FedTGP
from strategies.methods.fml import FML
from strategies.methods.gpfl import GPFL
from strategies.methods.layers import Layers
from strategies.methods.lg_fedavg import LGFedAvg
from strategies.methods.local import Local
from strategies.methods.moon import Moon
from strategies.methods.per_fedavg import PerFedAvg
from strategies.methods.scaffold import Scaffold

METHODS: Mapping[str, type[Method]] = {
    "apfl": APFL,
    "dbe": DBE,
    "ditto": Ditto,
    "fd": FD,
    "fedala": FedALA,
    "fedavg": FedAvg,
    "fedbn": FedBN,
    "fedcp": FedCP,
    "fedgen": FedGen,
    "fedgh": FedGH,
    "fedkd": FedKD,
    "fedktl": FedKTL,
    "fedper": FedPer,
    "fedproto": FedProto,
    "fedprox": FedProx,
    "fedrep": FedRep,
    "fedtgp": FedTGP,
    "fml": FML,
    "gpfl": GPFL,
    "layers": Layers,
    "lg_fedavg": LGFedAvg,
    "local": Local,
    "moon": Moon,
    "per_fedavg": PerFedAvg,
    "scaffold": Scaffold,
}


def make_method(options: Mapping[str, Any]) -> Method:
    """Return the method that ``options`` names, with its hyper-parameters.

    Raises
    ------
    UserError
        For an unknown method or hyper-parameter, with those that exist.
    """
    chosen = find("method.name", str(options.get("name")), METHODS)
    return read_options(chosen, {k: v for k, v in options.items() if k != "name"}, "method")
