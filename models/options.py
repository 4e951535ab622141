"""Plain configuration into typed, checked dataclasses, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from models.errors import UserError, nearest

Options = TypeVar("Options")


def read_options(cls: type[Options], mapping: Mapping[str, object], where: str) -> Options:
    """Return ``mapping`` as an instance of ``cls``; lists become tuples.

    Parameters
    ----------
    cls : type
        A frozen dataclass without defaults; its annotations are the options and their types.
    mapping : Mapping
        The options as plain values. A key ``name`` that ``cls`` does not have is left aside.
    where : str
        How a user writes the place, such as ``data``, for the texts of errors.

    Raises
    ------
    UserError
        An option is unknown, missing or of the wrong type, or holds an interpolation.
    """
    plain = {key: value for key, value in mapping.items() if key != "name"}
    _refuse_interpolation(plain, where)
    schema = OmegaConf.structured(cls)
    _unlock(schema)
    try:
        config = OmegaConf.merge(schema, plain)
    except ConfigKeyError as error:
        raise _unknown(schema, error, where) from error
    except OmegaConfBaseException as error:
        option = f"{where}.{error.full_key}" if error.full_key else where
        raise UserError(f"{option}: {str(error).splitlines()[0]}") from error
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"missing: {', '.join(f'{where}.{key}' for key in missing)}")
    built: Options = _plain(config)
    return built


def _refuse_interpolation(value: object, where: str) -> None:
    """Options may arrive over the network: none of them may read the site's environment."""
    if isinstance(value, str) and "${" in value:
        raise UserError(f"{where}: {value!r} is not resolved here; write the value itself")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_interpolation(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            _refuse_interpolation(inner, f"{where}[{position}]")


def _unlock(node: DictConfig) -> None:
    """Frozen dataclasses make read-only schemas, and a nested one could not be filled in."""
    OmegaConf.set_readonly(node, None)
    for key in node:
        inner = node._get_node(key)
        if isinstance(inner, DictConfig) and is_dataclass(OmegaConf.get_type(inner)):
            _unlock(inner)


def _unknown(schema: DictConfig, error: ConfigKeyError, where: str) -> UserError:
    parent, _, key = str(error.full_key).rpartition(".")
    level = OmegaConf.select(schema, parent) if parent else schema
    place = f"{where}.{parent}" if parent else where
    return UserError(f"{place} has no option {key!r}; there is {nearest(key, map(str, level))}")


def _plain(node: object) -> Any:
    if isinstance(node, ListConfig):
        return tuple(_plain(inner) for inner in node)
    if not isinstance(node, DictConfig):
        return node
    values = {str(key): _plain(node[key]) for key in node}
    cls = OmegaConf.get_type(node)
    return cls(**values) if cls is not None and is_dataclass(cls) else values
