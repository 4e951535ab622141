"""The methods, one file each, both halves on one page."""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from fedstrata.support.errors import UserError, nearest
from fedstrata.support.options import read_options
from strategies.method import Method


@cache
def registry() -> dict[str, type[Method]]:
    """Return the methods of ``strategies/methods/`` by name; the folder alone decides what exists."""
    package = importlib.import_module("strategies.methods")
    found: dict[str, type[Method]] = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"strategies.methods.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and "name" in vars(value):
                found[value.name] = value
    return found


def make_method(options: Mapping[str, Any]) -> Method:
    """Return the method that ``options`` names, with its hyper-parameters.

    Raises
    ------
    UserError
        For an unknown method or hyper-parameter, with those that exist.
    """
    name = str(options.get("name"))
    known = registry()
    if name not in known:
        raise UserError(
            f"method {name!r} does not exist; there are: {', '.join(sorted(known))} "
            f"(nearest: {nearest(name, known)})"
        )
    rest = {key: value for key, value in options.items() if key != "name"}
    return read_options(known[name], rest, "method")
