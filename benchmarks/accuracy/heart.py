"""Four hospitals' heart disease tables: the sites, and scikit-learn's models of the same rows.

Columns and rows are those of FLamby (Ogier du Terrail et al., NeurIPS 2022, `fed_heart_disease`).
Its split into training and test rows is not published as a list, so each seed draws one.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.study import Case, Sites, Study
from benchmarks.flower.site_data import sites_data
from client_app.data.registry import sums
from client_app.data.site_info import SiteInfo
from fedstrata.protocol.sums import combined
from models.training.data import SiteData

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
ROWS = (303, 261, 46, 130)  # of the hospitals, as FLamby counts them
LABEL = "disease"
FEATURES = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
CATEGORIES = {"cp": [1, 2, 3, 4], "restecg": [0, 1, 2]}
TEST, VALIDATION = 0.34, 0.06  # of a hospital's rows
PUBLISHED: Mapping[str, Sequence[float | None]] = {  # accuracy: mean, weighted, by hospital
    "FLamby, local": (None, None, 0.746, 0.746, 0.725, 0.702),
    "FLamby, FedAvg": (0.685, 0.748, None, None, None, None),
    "FLamby, pooled": (0.735, 0.795, None, None, None, None),
}
BASE = ("model=linear", "groups=all_common", "weights=none", "method=fedavg")
CASES = (
    Case("FedAvg, each site's own scale", ("data.standardize=site",)),
    Case("FedAvg, one agreed scale", ("data.standardize=agreed",)),
)


def prepare(source: Path, folder: Path) -> Path:
    """Write the four files with what is predicted: any disease (1 to 4), or none (0)."""
    folder.mkdir(parents=True, exist_ok=True)
    for hospital in HOSPITALS:
        with (source / f"{hospital}.csv").open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        with (folder / f"{hospital}.csv").open("w", newline="") as written:
            writer = csv.writer(written)
            writer.writerow([*FEATURES, LABEL])
            for row in rows:
                present = "sick" if int(row["target"]) else "well"
                writer.writerow([*(row[name] for name in FEATURES), present])
    return folder


def sites(root: Path, rounds: int) -> Sites:
    """Return the configuration of the four hospitals."""
    categories = ",".join(
        f"{column}:[{','.join(map(str, values))}]" for column, values in CATEGORIES.items()
    )
    overrides = (
        *BASE,
        f"data.tasks=[{LABEL}]",
        f"data.features=[{','.join(FEATURES)}]",
        f"data.categories={{{categories}}}",
        "data.impute=drop",  # FLamby leaves rows with a missing value out
        f"data.test_fraction={TEST}",
        f"data.validation_fraction={VALIDATION}",
        f"strategy.rounds={rounds}",
        "train.epochs=2",
        "train.batch_size=16",
    )
    return Sites("heart", "Heart disease", "tabular", len(HOSPITALS), root, overrides)


def site_scaled(study: Study, seed: int) -> list[SiteData]:
    """Return the sites' data as the runs of the first case have them."""
    return sites_data(study.config(CASES[0], seed), study.sites, study.data_root)


def agreed_scaled(study: Study, seed: int) -> list[SiteData]:
    """Return the sites' data on one scale, agreed on as in a run."""
    config = study.config(CASES[1], seed)
    infos = [SiteInfo(None, None, i, study.sites, study.data_root) for i in range(study.sites)]
    reports = [(LABEL, sums("tabular", config.data, info, seed)) for info in infos]
    scaled = replace(config, data={**config.data, "constants": combined(reports)})
    return sites_data(scaled, study.sites, study.data_root)


def scikit_local(data: Sequence[SiteData]) -> dict[str, float]:
    """Return the accuracy of scikit-learn's logistic regression trained at each site alone."""
    return {one.site: _accuracy(_fitted([one]), one) for one in data}


def scikit_pooled(data: Sequence[SiteData]) -> dict[str, float]:
    """Return the accuracy at each site of one scikit-learn model of all training rows."""
    model = _fitted(data)
    return {one.site: _accuracy(model, one) for one in data}


def _fitted(data: Sequence[SiteData]) -> Any:
    from sklearn.linear_model import LogisticRegression

    inputs = np.concatenate([rows(one.train) for one in data])
    labels = np.concatenate([one.train.labels for one in data])
    return LogisticRegression(max_iter=1000).fit(inputs, labels)


def _accuracy(model: Any, data: SiteData) -> float:
    return float(np.mean(model.predict(rows(data.test)) == data.test.labels))


def rows(split: Any) -> NDArray[np.float32]:
    """Return the inputs of a split as the sites train on them."""
    inputs: NDArray[np.float32] = split.inputs.batch(np.arange(len(split))).numpy()
    return inputs


def weighted(by_site: Mapping[str, float], examples: Mapping[str, int]) -> float:
    """Return the mean of the sites' accuracies by their test rows, as FLamby weights it."""
    total = sum(examples[site] for site in by_site)
    return sum(value * examples[site] for site, value in by_site.items()) / total
