"""Test examples that stand in no file of their own: how a site read them, to read them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from client_app.context import SiteContext
from client_app.data.registry import load
from client_app.data.site_info import SiteInfo
from fedstrata.protocol.plan import plan_from_json
from fedstrata.support.durable import replacing_private
from fedstrata.support.errors import UserError, private
from models.model_card import ModelCard
from models.training.data import Inputs, Labels, SiteData

HOW_READ = "test-examples.json"  # in the site's folder of the run
READ_AGAIN = frozenset({"faces", "har", "medmnist", "pflbench"})
"""The data sets of which a test example is no picture, text or row in a file that predict takes."""
DRAWN = Path("drawn")  # instead of a file
LARGEST = 1 << 16  # bytes of the file

Word = Annotated[str, Meta(max_length=4096)]
Number = Annotated[int, Meta(ge=0, le=2**31)]


class HowRead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a site decides which data are its own, as in `SiteInfo`; the run's plan says the rest."""

    site: Word | None
    task: Word | None
    index: Number | None
    count: Number | None
    root: Word | None
    deployed: bool


def write_how_read(context: SiteContext) -> None:
    """Write how the site's data were read, for its owner alone; nothing for data in files."""
    if context.plan.data["name"] not in READ_AGAIN:
        return
    node = context.node
    root = None if node.data_root is None else str(node.data_root)
    how = HowRead(node.name, node.task, node.index, node.count, root, not node.simulated)
    with replacing_private(context.store.folder / HOW_READ) as unfinished:
        unfinished.write_bytes(msgspec.json.encode(how))


def read_again(card: ModelCard, path: Path) -> tuple[Inputs, Labels, tuple[tuple[Path, int], ...]]:
    """Return the run's own test examples, their targets, and where they are.

    Parameters
    ----------
    card : ModelCard
        Of a site's model.
    path : Path
        What `write_how_read` wrote at this site.

    Raises
    ------
    UserError
        The file is damaged, or the site's data are not those of the run.
    """
    how = _how(path)
    if not card.plan:
        raise UserError("--split test: the model's card has no plan of the run")
    plan = plan_from_json(card.plan)
    root = None if how.root is None else Path(how.root)
    info = SiteInfo(how.site, how.task, how.index, how.count, root, deployed=how.deployed)
    options = plan.data_options
    if "download" in options:  # nothing is fetched to read again what was there
        options = {**options, "download": False}
    data = load(str(plan.data["name"]), options, info, plan.seed)
    if data.digest != card.data:
        where = private(how.root, "the site's data") if how.root else "the data that are drawn here"
        raise UserError("--split test: " + where + " are not those of the run any more")
    return data.test.inputs, data.test.labels, _places(data)


def _how(path: Path) -> HowRead:
    try:
        content = path.read_bytes()
        if len(content) > LARGEST:
            raise ValueError("it is too large")
        return msgspec.json.decode(content, type=HowRead)
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise UserError(
            "--split test: " + private(path, HOW_READ) + f" cannot be read: {error}"
        ) from None


def _places(data: SiteData) -> tuple[tuple[Path, int], ...]:
    if data.test_places is None:
        return tuple((DRAWN, number) for number in range(len(data.test)))
    return tuple(zip(data.test_places.files, data.test_places.rows, strict=True))
