"""What is said where models exchange tensors of different shapes."""

from __future__ import annotations

import re

import pytest

from server_app.rounds.model_shapes import models_problem

OUT = {"head.out.weight": "float32[2, 64]", "head.out.bias": "float32[2]"}


@pytest.mark.parametrize(
    ("mine", "shared", "said"),
    [
        (
            {**OUT, "head.out.weight": "float32[2, 512]"},
            OUT,
            r"head.out.weight is float32\[2, 64\] there and float32\[2, 512\] here. "
            r"model.head=\[64\] gives all of them the same width",
        ),
        (
            {**OUT, "head.0.weight": "float32[64, 9]"},
            {**OUT, "head.0.weight": "float32[64, 8]"},
            r"head.out agrees: exchange it alone \(method.common=\[head.out\]",
        ),
        (
            dict.fromkeys(OUT, "float32[3]"),
            OUT,
            "different numbers of outputs: put head.out into groups.task",
        ),
        (
            {**OUT, **{f"conv{n}.weight": "float32[3]" for n in range(6)}},
            OUT,
            "conv3.weight is missing there and .* here and 2 more. Exchange what all models have",
        ),
    ],
    ids=["width", "hidden", "outputs", "body"],
)
def test_tensors_that_do_not_agree_are_named_and_how_to_mend_it(
    mine: dict[str, str], shared: dict[str, str], said: str
) -> None:
    assert re.search(said, models_problem("edge", "common", mine, shared))
