"""The methods by name: each is one file with both halves, the site's and the server's."""

from collections.abc import Mapping
from typing import Any

from fedstrata.support.options import read_options
from fedstrata.support.registry import find
from strategies.method import Method
from strategies.methods.dbe import DBE
from strategies.methods.ditto import Ditto
from strategies.methods.fedavg import FedAvg
from strategies.methods.fedbn import FedBN
from strategies.methods.fedper import FedPer
from strategies.methods.fedprox import FedProx
from strategies.methods.layers import Layers
from strategies.methods.lg_fedavg import LGFedAvg
from strategies.methods.local import Local
from strategies.methods.scaffold import Scaffold

METHODS: Mapping[str, type[Method]] = {
    "dbe": DBE,
    "ditto": Ditto,
    "fedavg": FedAvg,
    "fedbn": FedBN,
    "fedper": FedPer,
    "fedprox": FedProx,
    "layers": Layers,
    "lg_fedavg": LGFedAvg,
    "local": Local,
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
