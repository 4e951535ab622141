"""The networks that a run offers its sites, where it offers several, and which of them a site has.

They are ``models`` in the configuration: options of a network, by a name. A deployed site names its
own in its settings. In a simulation each site has the next one in turn, or the one that
``data.models`` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedstrata.support.errors import UserError, nearest

MODELS = "models"  # the key of the configuration; in ``data``, which site has which
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MOST_MODELS = 64
_BETWEEN = "/"  # of no task's name and no model's


def variant_of(task: str, model: str) -> str:
    """Return the key of a task's model: ``grade/edge``; the task where the run has one network."""
    return f"{task}{_BETWEEN}{model}" if model else task


def task_of(variant: str) -> str:
    """Return the task of a key that `variant_of` made."""
    return variant.partition(_BETWEEN)[0]


def check_models(models: Mapping[str, Any]) -> None:
    """Raise UserError for models that have no proper name, or do not say which network they are."""
    if len(models) > MOST_MODELS:
        raise UserError(f"models has {len(models)} networks, and at most {MOST_MODELS} are offered")
    for name, options in models.items():
        if not MODEL_NAME.fullmatch(name):
            raise UserError(
                f"models: {name[:80]!r} cannot be a model's name: letters, digits, '_' and '-', at "
                "most 64 characters, beginning with a letter or digit"
            )
        if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
            raise UserError(
                f"models.{name} is no network: choose one with +model@models.{name}=small_cnn"
            )


def check_assigned(models: Mapping[str, Any], assigned: object) -> None:
    """Raise UserError where ``data.models`` is neither a list nor a mapping of offered models."""
    if assigned is None:
        return
    if not models:
        raise UserError(
            "data.models says which site has which of the models, and the run offers none: add them "
            "with +model@models.NAME=..., or leave data.models out"
        )
    names = list(assigned.values()) if isinstance(assigned, Mapping) else assigned
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise UserError(
            "data.models is a list, whose entries sites have in turn, or a mapping from sites to "
            f"models: write data.models=[{','.join(sorted(models))}]"
        )
    for name in names:
        _offered(models, name, "data.models")


def own_model(models: Mapping[str, Any], model: Mapping[str, Any], wanted: str | None) -> str:
    """Return which of the models a deployed site has, "" where the run has one network for all.

    Parameters
    ----------
    models, model : mapping
        As the plan has them.
    wanted : str or None
        What the site's own settings say.

    Raises
    ------
    UserError
        Where the site names none of several, or one that is not offered.
    """
    only = str(model.get("name"))
    if not models:
        if wanted is not None and wanted != only:
            raise UserError(
                f"this site's model is {wanted[:80]!r}, and the run has one network for all sites, "
                f"{only}: to take part, leave `model` out of the site's settings, or write {only}"
            )
        return ""
    if wanted is None:
        raise UserError(
            f"the run offers the models {_listed(models)}, and this site names none of them: write "
            f"model: {min(models)} in site.yaml, or model={min(models)} in its node config"
        )
    return _offered(models, wanted, "the site's own `model`")


def simulated_model(models: Mapping[str, Any], assigned: object, index: int, site: str) -> str:
    """Return which of the models a simulated site has.

    Parameters
    ----------
    models : mapping
        As the plan has them.
    assigned : object
        ``data.models``, checked; None gives each site the next one, in the order of their names.
    index : int
        The site's number, from 0.
    site : str
        Its name.

    Raises
    ------
    UserError
        Where the mapping does not have the site.
    """
    if isinstance(assigned, Mapping):
        if site not in assigned:
            raise UserError(
                f"data.models names no model for the site {site}: add {site}: {min(models)}; it "
                f"has {', '.join(sorted(assigned))}"
            )
        return str(assigned[site])
    names = sorted(models) if assigned is None else list(assigned)  # type: ignore[call-overload]
    return str(names[index % len(names)])


def _offered(models: Mapping[str, Any], name: object, where: str) -> str:
    if isinstance(name, str) and name in models:
        return name
    shown = str(name)[:80]
    raise UserError(
        f"{where}: {shown!r} is none of the models of the run, which offers {_listed(models)} "
        f"(nearest: {nearest(shown, models)})"
    )


def _listed(models: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({options.get('name')})" for name, options in sorted(models.items()))
