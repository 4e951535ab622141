"""What training costs a site, by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.flower.site_data import sites_data
from benchmarks.measure.footprint import footprint
from models.training.data import ArrayInputs, SiteData, Split
from server_app.compose import compose


def numbers(rows: int) -> SiteData:
    values = np.random.default_rng(0).normal(size=(rows, 10)).astype(np.float32)
    split = Split(ArrayInputs(values), np.arange(rows) % 3)
    return SiteData("s", "t", tuple("abc"), (10,), split, split, split)


def test_the_cost_of_a_perceptron_by_hand() -> None:
    config = compose(
        "har",
        ["model.hidden=[4]", "groups.common=[fc1]", "groups.personal=[head]", "train.batch_size=5"],
    )
    cost = footprint(config, numbers(20))
    body, head = 10 * 4 + 4, 4 * 3 + 3
    assert cost.parameters == cost.trained == body + head
    assert cost.weights == 4 * (body + head)
    assert cost.optimizer == 8 * (body + head)
    assert cost.sent == 4 * body
    # The inputs of both layers, one of which is ReLU's output.
    assert cost.activations == 4 * 5 * (10 + 4)


def test_frozen_layers_cost_no_activations() -> None:
    small = ["model=small_cnn", "model.head=[]", "weights=none", "data.train=20", "data.size=28"]
    whole = compose("faces", [*small, "groups=all_common"])
    frozen = ["groups.pretrained=[conv1,bn1,conv2,bn2,conv3,bn3]", "groups.common=[head]"]
    head = compose("faces", [*small, "groups=all_common", *frozen])
    (data,) = sites_data(whole, 1, None)
    costs = [footprint(config, data) for config in (whole, head)]
    assert costs[1].activations < costs[0].activations / 50
    assert costs[1].trained == 256 * 2 + 2
    assert costs[1].sent == 4 * costs[1].trained
