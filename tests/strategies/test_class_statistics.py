"""Which classes an example has, and the sums of a site."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nan

from models.training.data import Split
from strategies.class_statistics import membership, note_class_sums
from strategies.methods.fedproto import FedProto
from tests.helpers.method_rounds import features, parameters, site_of, tensors_of


def test_a_class_index_and_the_labels_that_are_present_are_memberships() -> None:
    assert membership(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    labels = torch.tensor([[1.0, 0.0, nan], [0.0, 1.0, 1.0]])
    assert membership(labels, 3).tolist() == [[1, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_sums_do_not_depend_on_how_much_fits_into_memory(parts: int) -> None:
    site = site_of(FedProto(1.0, "head"), examples=9, batch_size=4)
    site.settings = type(site.settings)(site.settings.config, micro_batches=parts)
    note_class_sums(site, site.body)
    inputs = site.train.inputs.batch(np.arange(9)).double().numpy()
    z = features(inputs, parameters(tensors_of(site)))
    wanted = [z[site.train.labels == label].sum(0) / 9 for label in range(3)]
    assert np.allclose(site.extras.get_buffer("sums").numpy(), wanted, atol=1e-6)
    assert site.extras.get_buffer("counts").sum() == pytest.approx(1)


def test_a_site_whose_examples_have_no_known_label_sends_zeros() -> None:
    site = site_of(FedProto(1.0, "head"))
    site.train = Split(site.train.inputs, np.full((6, 3), np.nan, dtype=np.float32))
    note_class_sums(site, site.body)
    assert not any(buffer.any() for buffer in site.extras.buffers())
