"""Measures in words, by name and kind of task: ``91.20 %``, ``0.842``, ``6.2 years``."""

from __future__ import annotations

from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER

WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
}
BASELINES = {CLASSES: "majority class", LABELS: "chance", NUMBER: "mean"}


def value_text(name: str, value: float | None, unit: str = "") -> str:
    """Return a value of the measure ``name``; errors of numbers with ``unit``."""
    if value is None:
        return "-"
    if "accuracy" in name:
        return f"{100 * value:.2f} %"
    if name in ("mae", "rmse"):
        return f"{value:.4g}" + (f" {unit}" if unit else "")
    return f"{value:.3f}"


def gain_text(kind: str, value: float | None, unit: str = "") -> str:
    """Return a gain in the leading measure of a kind, above 0 where it is better."""
    if value is None:
        return "-"
    if kind == CLASSES:
        return f"{100 * value:+.2f} points"
    if kind == LABELS:
        return f"{value:+.3f}"
    return f"{value:+.4g}" + (f" {unit}" if unit else "")
