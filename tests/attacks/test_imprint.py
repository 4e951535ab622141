"""A server that chooses network, steps and layers gets no training pictures back by default.

The attack is an imprint (Fowl et al., arXiv 2110.13057). The rows of the first linear layer are
equal, and their biases cut the brightness of pictures into bins. The updates of two neighboring
bins differ by the pictures between them, and often there is only one. The app is ours, unmodified.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import Context, RecordDict
from flwr.common.typing import Fab, Run
from PIL import Image
from torch import Tensor

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.payload import encode
from server_app.compose import compose
from site_guard.bundles import build
from site_guard.guard import Guard, make_guard
from site_guard.plan_rules import PlanRules
from site_guard.settings import SiteSettings
from strategies.config import plan_for
from tests.helpers.source import ROOT
from tests.helpers.tiny_app import Pushed

pytestmark = pytest.mark.system  # it starts the app again and again

PICTURES, SIZE, BINS = 64, 32, 512
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
OFF = PlanRules(models=("*",), min_batch_size=1, min_steps=1, min_examples=1, max_learning_rate=1e9)
PLAN = [
    *("model=mlp", f"model.hidden=[{BINS}]", "model.head=[]", "groups=all_common"),
    *(f"data.size={SIZE}", "data.classes={grade:[low,high]}", "train.clip=null"),
    *("train.optimizer.momentum=0", "train.optimizer.weight_decay=0", "baselines.alone=false"),
]
ONE_STEP = [*PLAN, "train.epochs=null", "train.steps=1", "train.batch_size=64"]
WHOLE = [*ONE_STEP, "train.optimizer.lr=100"]
# Tiny steps hardly move the layers, so their gradients add up to that of one step over all.
TINY_STEPS = [*PLAN, "train.epochs=2", "train.batch_size=16", "train.optimizer.lr=0.001"]


@pytest.fixture(scope="module")
def app() -> bytes:
    return build(ROOT)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of soft spots, each of its own brightness, as a folder of a hospital."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, many in (("train", PICTURES), ("validation", 4), ("test", 4)):
        for number in range(many):
            small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            path = root / split / ("low", "high")[number % 2] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return root


def hospital(folder: Path, pictures: Path, rules: PlanRules) -> Guard:
    places = {"state": str(folder / "state"), "cache": str(folder / "cache")}
    return make_guard(
        SiteSettings(
            site="north",
            task="grade",
            data=str(pictures),
            share=("common", "task"),
            threads=1,
            device="cpu",
            plan=rules,
            **places,
        )
    )


def crafted(scale: float) -> dict[str, Tensor]:
    """Return layers whose update shows pictures; the server knows only what pictures are like."""
    values = 3 * SIZE * SIZE
    weight = torch.full((BINS, values), 1 / values)
    return {
        "fc1.weight": weight,
        "fc1.bias": -torch.linspace(-2.2, 2.7, BINS),
        "head.out.weight": torch.stack([torch.full((BINS,), -scale), torch.full((BINS,), scale)]),
        "head.out.bias": torch.zeros(2),
    }


def ask_for_training(
    guard: Guard, app: bytes, overrides: list[str], layers: Mapping[str, Tensor], **data: Any
) -> tuple[answers.RoundReport, dict[str, Tensor]]:
    """Order a round with these layers; return the report and the layers that left the site."""
    plan = plan_for(compose("images", overrides), federation="march", weights="")
    payload = kinds.payload_array(encode(dict(layers)))
    message = orders.order(
        kinds.TRAIN, 7, plan=plan.to_json(), round_number=1, layers={"common": payload}, ttl=300.0
    )
    run = Run.create_empty(run_id=1)
    run.fab_id, run.fab_version = "fedstrata/fedstrata", "0.1.0"
    context = Context(1, 7, {}, RecordDict(), {})
    work = Pushed(None, message, context, run, Fab("", app, {}))  # type: ignore[arg-type]
    guard.handle(work)
    (answer,) = work.answers
    sent = answers.read_payloads(answer)
    return answers.read_round_report(answer), (
        safetensors.torch.load(sent["common"]) if sent else {}
    )


def imprinted(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the pictures that differences of neighboring rows show."""
    weight = (before["fc1.weight"] - after["fc1.weight"]).double()
    bias = (before["fc1.bias"] - after["fc1.bias"]).double()
    found = []
    for one in range(BINS - 1):
        change = bias[one] - bias[one + 1]
        if abs(change) > 1e-9:
            found.append(((weight[one] - weight[one + 1]) / change).reshape(3, SIZE, SIZE))
    return found


def recovered(found: list[Tensor], pictures: Path, decibels: float) -> int:
    """Return how many training pictures were found with a PSNR of so many decibels or more."""
    good = 0
    for path in (pictures / "train").rglob("*.png"):
        with Image.open(path) as image:
            true = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        errors = [((x * STD + MEAN - true) ** 2).mean().item() for x in found]
        good += bool(errors) and min(errors) <= 10 ** (-decibels / 10)
    return good


@pytest.mark.parametrize(
    ("overrides", "scale", "rules", "decibels"),
    [(WHOLE, 1e-4, OFF, 60.0), (TINY_STEPS, 3e-2, PlanRules(models=("*",)), 30.0)],
    ids=["no rules", "all rules but that on models"],
)
def test_without_the_rule_on_models_pictures_come_back(
    tmp_path: Path,
    app: bytes,
    pictures: Path,
    overrides: list[str],
    scale: float,
    rules: PlanRules,
    decibels: float,
) -> None:
    guard = hospital(tmp_path, pictures, rules)
    before = crafted(scale)
    try:
        report, after = ask_for_training(guard, app, overrides, before)
    finally:
        guard.process.stop()
    assert (report.error, report.examples) == ("", PICTURES)
    assert recovered(imprinted(before, after), pictures, decibels) > PICTURES // 4


@pytest.mark.parametrize("overrides", [WHOLE, TINY_STEPS], ids=["one step", "tiny steps"])
def test_by_default_the_order_is_refused_before_the_app_sees_it(
    tmp_path: Path, app: bytes, pictures: Path, overrides: list[str]
) -> None:
    guard = hospital(tmp_path, pictures, PlanRules())
    report, after = ask_for_training(guard, app, overrides, crafted(1e-4))
    assert "the plan trains 'mlp', and this site's rule is `plan: models`" in report.error
    assert after == {}
    assert guard.process.started == 0


SINGLE = ["model=small_cnn", "model.head=[]", "groups=all_common", f"data.size={SIZE}"]
SINGLE += ["data.classes={grade:[low,high]}"]


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["train.batch_size=1"], "min-batch-size"),
        (["train.epochs=null", "train.steps=1"], "min-steps"),
        (["train.optimizer.lr=100"], "max-learning-rate"),
    ],
)
def test_rounds_that_are_made_to_be_inverted_are_refused(
    tmp_path: Path, app: bytes, pictures: Path, overrides: list[str], rule: str
) -> None:
    guard = hospital(tmp_path, pictures, PlanRules())
    report, after = ask_for_training(guard, app, [*SINGLE, *overrides], {})
    assert f"this site's rule is `plan: {rule}`" in report.error
    assert after == {}
    assert guard.process.started == 0


def test_a_round_over_two_pictures_does_not_leave(
    tmp_path: Path, app: bytes, pictures: Path
) -> None:
    from models.networks import build as network

    few = [*SINGLE, "data.labels_per_class=1", "train.epochs=4"]
    state = network("small_cnn", input_shape=(3, SIZE, SIZE), classes=2, head=[]).state_dict()
    layers = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    guard = hospital(tmp_path, pictures, PlanRules())
    try:
        report, after = ask_for_training(guard, app, few, layers)
        assert "this site's rule is `plan: min-examples`: 20" in report.error
        assert after == {}
    finally:
        guard.process.stop()
