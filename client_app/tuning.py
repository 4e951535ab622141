"""A hospital that took no part gets a run's public model, and fine-tunes it on its own data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from client_app import orders
from client_app.context import CHECKPOINT, SiteContext, checkpoint_path, open_site
from client_app.failures import writing
from client_app.node_config import KEYS, NodeSettings, read_node_settings
from fedstrata.protocol.answers import DeployReport
from fedstrata.protocol.orders import Order
from fedstrata.protocol.payload import encode
from fedstrata.protocol.plan import Plan, plan_from_json
from fedstrata.protocol.task_kinds import NUMBER
from fedstrata.support.errors import UserError, nearest
from fedstrata.support.paths import path_from_here
from models import weights
from models.groups import Partition
from models.licences import NOT_KNOWN
from models.model_card import ModelCard
from models.model_file import FILE, MEMORY, ModelFile, folder_of, network_of
from models.networks import OF_TOKENS
from strategies.methods import make_method
from strategies.partitioned_model import build_partitioned

EPOCHS = 4  # where neither the run nor the command line says how long
NEAR = ("task", "personal")  # the groups that are nearest to a site
PATHS = ("data-root", "state-dir", "cache-dir", "models-dir")
PARTS = {"data": "data", "train": "train", "deployment": "tuning"}
"""What a command line may change of a plan, by the key of the configuration."""


@dataclass(frozen=True)
class Tuned:
    """What came of a fine-tuning.

    Parameters
    ----------
    report : DeployReport
        Measures before and after.
    path : Path
        The site's model.
    groups : tuple of str
        What was fine-tuned.
    site : str
        The site's name.
    """

    report: DeployReport
    path: Path
    groups: tuple[str, ...]
    site: str


def split_words(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what the words say of the site, and the overrides of the run's configuration.

    Raises
    ------
    UserError
        A word is no ``key=value``, or its key is none of either.
    """
    node: dict[str, Any] = {}
    overrides = []
    for word in words:
        key, given, value = word.partition("=")
        if not given:
            raise UserError(f"{word!r}: write key=value, as in data-root=/data/pictures")
        if key in KEYS:
            node[key] = int(value) if value.isascii() and value.isdigit() else value
        elif key.partition(".")[0] in PARTS:
            overrides.append(word)
        else:
            known = [*KEYS, *(f"{part}.*" for part in PARTS)]
            raise UserError(f"{key!r} cannot be set here; there is {nearest(key, known)}")
    return node, overrides


def node_of(card: ModelCard, given: Mapping[str, Any]) -> NodeSettings:
    """Return the settings of the site that tunes, which has the model's task."""
    settings = {"site": "site", "task": card.task, **given}
    for key in PATHS:
        if path := settings.get(key):
            settings[key] = str(path_from_here(str(path), key))
    return read_node_settings(settings, {})


def plan_of(card: ModelCard, overrides: Sequence[str]) -> Plan:
    """Return the run's plan as the site tunes with it; the card is not trusted.

    Raises
    ------
    UserError
        The card has no plan, or an override does not fit it.
    """
    if not card.plan:
        raise UserError("the model's card has no plan: it does not say how the run was configured")
    plan = plan_from_json(card.plan)
    options: dict[str, Any] = {key: _plain(getattr(plan, name)) for key, name in PARTS.items()}
    for word in overrides:
        part, _, rest = word.partition("=")[0].partition(".")
        first = rest.partition(".")[0]
        if first not in options[part]:
            raise UserError(
                f"{part} has no option {first!r}; there is {nearest(first, options[part])}"
            )
    try:
        merged = OmegaConf.merge(options, OmegaConf.from_dotlist(list(overrides)))
        options = cast("dict[str, Any]", OmegaConf.to_container(merged, resolve=False))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"an override cannot be read: {str(error).splitlines()[0]}") from None
    data, tuning = options["data"], options["deployment"]
    if card.kind.name != NUMBER and "classes" in data and data["classes"] is None:
        data["classes"] = {card.task: list(card.outputs)}
    tuning["epochs"] = tuning["epochs"] or EPOCHS
    # Nothing travels here, so nothing is coded. The groups are checked once the model is there.
    changed = {**asdict(plan), "data": data, "train": options["train"], "tuning": tuning}
    changed |= {"coding": {}, "coding_down": {}, "federation": f"{plan.federation[:58]}-tuned"}
    changed |= {"models": {}, "own": "", "starts": {}}  # the card's own network is that of all
    return plan_from_json(json.dumps(changed, sort_keys=True))


def tune(model: ModelFile, node: NodeSettings, plan: Plan, groups: Sequence[str] = ()) -> Tuned:
    """Fine-tune a model at a site with the site's own code; write the site's model.

    Parameters
    ----------
    model : ModelFile
        The public model of a run.
    node : NodeSettings
        The site.
    plan : Plan
        What `plan_of` returns.
    groups : sequence of str
        Which to fine-tune; those nearest to the site where none are named.

    Raises
    ------
    UserError
        The model or the site's data cannot be used, or are not for each other.
    """
    node = replace(node, model=None)  # the file says which network it is
    with folder_of(model) as models_dir:
        if plan.model["name"] in OF_TOKENS and not _has_folder(plan, node):
            node = replace(node, models_dir=models_dir)
        network_of(model, models_dir)  # what does not fit is seen before anything is built
        partition = _partition(model, plan, node)
        chosen = tuple(groups) or nearest_groups(partition)
        plan = replace(plan, tuning=replace(plan.tuning, groups=chosen))
        own = {n: t for n, t in model.tensors.items() if not n.startswith((FILE, MEMORY))}
        exchanged = {
            group: {name: own[name] for name in partition.exchanged_names(group)}
            for group in partition.exchanged_groups()
        }
        sent = {name for tensors in exchanged.values() for name in tensors}
        rest = {name: tensor for name, tensor in own.items() if name not in sent}
        plan = replace(plan, weights=_keep_start(node, rest, model.card))
        context = open_site(node, plan)
        check_same_task(model.card, context)
        layers = {group: encode(tensors) for group, tensors in exchanged.items()}
        number = model.card.round
        order = Order("", number + 1, layers, {}, {}, state=number)
        report, _ = orders.deploy(context, order)
    assert isinstance(report, DeployReport)
    return Tuned(report, context.store.deployed, chosen, context.data.site)


def nearest_groups(partition: Partition) -> tuple[str, ...]:
    """Return the groups that are nearest to a site: of its task, and its own; else all it trains."""
    trained = [n for n, g in partition.groups.items() if g.trained and partition.names(n)]
    near = tuple(name for name in NEAR if name in trained)
    return near or tuple(trained)


def check_same_task(card: ModelCard, context: SiteContext) -> None:
    """Raise UserError where the site's data are not for the model."""
    data = context.data
    for what, own, wanted in (
        ("classes", data.classes, card.outputs),
        ("inputs (shape)", data.input_shape, card.network.input_shape),
        ("kinds of targets", data.kind.name, card.kind.name),
    ):
        if own != wanted:
            raise UserError(f"the data have other {what} than the model: {own}, not {wanted}")


def _partition(model: ModelFile, plan: Plan, node: NodeSettings) -> Partition:
    untuned = replace(plan, tuning=replace(plan.tuning, epochs=0))  # its groups are chosen later
    built = build_partitioned(
        untuned,
        make_method(plan.method),
        input_shape=model.card.network.input_shape,
        classes=len(model.card.outputs),
        models_dir=node.models_dir,
    )
    own = built.model.state_dict()
    wrong = [
        n for n, t in own.items() if n not in model.tensors or model.tensors[n].shape != t.shape
    ]
    if wrong:
        raise UserError(
            f"{model.path}: the tensors are not those of its plan: {', '.join(wrong[:3])}"
        )
    return built.partition


def _keep_start(node: NodeSettings, tensors: Mapping[str, Any], card: ModelCard) -> str:
    """Keep what the site starts from as a checkpoint; return its hash, "" where there is nothing."""
    if not tensors:
        return ""
    made = weights.content_hash(tensors)
    with writing(CHECKPOINT):
        weights.save(checkpoint_path(node.cache_dir, made), tensors, _origin(card))
    return made


def _origin(card: ModelCard) -> dict[str, str]:
    source = f"the public model of {card.run}"
    if card.start is None:
        return {"source": source, "licence": NOT_KNOWN}
    return {"source": f"{source}, from {card.start.source}", "licence": card.start.licence}


def _has_folder(plan: Plan, node: NodeSettings) -> bool:
    return (node.models_dir / str(plan.model.get("folder"))).is_dir()


def _plain(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else asdict(value)
