"""Plain configuration into typed, checked dataclasses, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

from fedstrata.support.errors import UserError, nearest

Options = TypeVar("Options")
# Options take a millisecond or two, and the hundreds of sites of a simulation have the same.
MOST_KEPT = 32
_READ: dict[tuple[type, str, str], object] = {}


def read_options(cls: type[Options], mapping: Mapping[str, object], where: str) -> Options:
    """Return ``mapping`` as an instance of ``cls``, not to be changed; lists become tuples.

    Parameters
    ----------
    cls : type
        A frozen dataclass without defaults; its annotations are the options and their types.
        A field may be a dataclass itself.
    mapping : Mapping
        The options as plain values. A key ``name`` that ``cls`` does not have is ignored.
    where : str
        How a user writes the place, such as ``data``, for the texts of errors.

    Raises
    ------
    UserError
        An option is unknown, missing or of the wrong type, or has an interpolation.
    """
    key = (cls, where, repr(mapping))
    if key not in _READ:
        while len(_READ) >= MOST_KEPT:
            del _READ[next(iter(_READ))]
        _READ[key] = _read(cls, mapping, where)
    return cast(Options, _READ[key])


def _read(cls: type[Options], mapping: Mapping[str, object], where: str) -> Options:
    # Where options are read, not before: many modules have options, and most processes read few.
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: expected options by name, got {str(mapping)[:80]!r}")
    names = [option.name for option in fields(cls)]  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    plain = {key: value for key, value in mapping.items() if key in names or key != "name"}
    _refuse_interpolation(plain, where)
    # The schema of a nested frozen dataclass stays read-only, and OmegaConf cannot merge into it:
    # each is read by a call of its own.
    inner = {name: hints[name] for name in names if is_dataclass(hints[name])}
    try:
        config: Any = OmegaConf.merge(
            _schema(cls),  # type: ignore[arg-type]
            {k: v for k, v in plain.items() if k not in inner},
        )
    except ConfigKeyError as error:
        key = str(error.key)
        raise UserError(f"{where} has no option {key!r}; there is {nearest(key, names)}") from error
    except OmegaConfBaseException as error:
        option = f"{where}.{error.full_key}" if error.full_key else where
        raise UserError(f"{option}: {str(error).splitlines()[0]}") from error
    missing = [name for name in names if name not in plain]
    if missing:
        raise UserError(f"missing: {', '.join(f'{where}.{key}' for key in missing)}")
    built: Any = {
        name: _plain(config[name], f"{where}.{name}") for name in names if name not in inner
    }
    for name, nested in inner.items():
        built[name] = read_options(nested, plain[name], f"{where}.{name}")  # type: ignore[arg-type]
    return cls(**built)


@cache
def _schema(cls: type) -> Any:
    """Return OmegaConf's schema of a dataclass; it takes milliseconds, so it is kept."""
    from omegaconf import OmegaConf

    schema = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, None)  # a frozen dataclass makes a read-only schema
    return schema


def _refuse_interpolation(value: object, where: str) -> None:
    """Refuse ``${...}``: options from the network must not read the environment of the site."""
    if isinstance(value, str) and ("${" in value or value == "???"):
        raise UserError(f"{where}: {value!r} is not resolved here; write the value itself")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_interpolation(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            _refuse_interpolation(inner, f"{where}[{position}]")


def _plain(node: object, where: str) -> Any:
    """Return lists as tuples; refuse a list within ``list[str]``, which OmegaConf accepts."""
    from omegaconf import DictConfig, ListConfig

    if not isinstance(node, ListConfig | DictConfig):
        return node
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node)
    values = {str(key): _plain(node[key], f"{where}.{key}") for key in keys}
    if node._metadata.element_type in (bool, int, float, str):
        for key, value in values.items():
            if isinstance(value, tuple | dict):
                raise UserError(f"{where}.{key}: one plain value is needed, not {value!r}")
    return tuple(values.values()) if isinstance(node, ListConfig) else values
