"""Values that reports are made of, right ones and any at all."""

from __future__ import annotations

from hypothesis import strategies as st

METRIC: dict[str, float | None] = {
    "examples": 4.0,
    "loss": 0.7,
    "accuracy": 0.5,
    "balanced_accuracy": 0.5,
    "auroc": None,
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
