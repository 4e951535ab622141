"""The heart disease table has FLamby's rows and columns, and scikit-learn the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import heart
from benchmarks.accuracy.study import composed
from benchmarks.flower.site_data import sites_data
from tests.helpers.real_data import shared_file


def drawn(folder: Path) -> Path:
    """Write four small hospitals of which age decides."""
    folder.mkdir()
    for number, name in enumerate(heart.HOSPITALS):
        lines = ["age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,target"]
        for row in range(40):
            age, sick = 30 + (row * 7) % 40, int((row * 7) % 40 > 20)
            chol = "?" if row == number else 200 + row
            target = sick * (1 + row % 4)
            cells = (
                age,
                row % 2,
                1 + row % 4,
                120,
                chol,
                0,
                row % 3,
                150,
                0,
                1.5,
                "?",
                "",
                3,
                target,
            )
            lines.append(",".join(map(str, cells)))
        (folder / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path):
    root = heart.prepare(drawn(tmp_path / "source"), tmp_path / "prepared")
    made = heart.sites(root, rounds=1)
    return sites_data(composed(made.experiment, made.overrides), made.sites, root)


def test_sites_are_hospitals_without_incomplete_rows(data) -> None:
    assert [one.site for one in data] == list(heart.HOSPITALS)
    for one in data:
        assert one.classes == ("sick", "well")
        assert one.input_shape == (15,)
        assert len(one.train) + len(one.validation) + len(one.test) == 39


def test_scikit_learn_is_measured_on_the_same_rows(data) -> None:
    pytest.importorskip("sklearn")
    for found in (heart.scikit_local(data), heart.scikit_pooled(data)):
        assert list(found) == list(heart.HOSPITALS)
        assert min(found.values()) > 0.75


def test_one_scale_is_that_of_all_training_rows(tmp_path) -> None:
    root = heart.prepare(drawn(tmp_path / "source"), tmp_path / "prepared")
    study = heart.sites(root, rounds=1).study("tables", (1,))
    data = heart.agreed_scaled(study, 1)
    ages = np.concatenate([heart.rows(one.train)[:, 0] for one in data])
    assert (ages.mean(), ages.std()) == pytest.approx((0, 1), abs=1e-5)
    assert abs(heart.rows(heart.site_scaled(study, 1)[1].train)[:, 0].mean()) < 1e-6


def test_the_weighted_mean_is_by_test_rows() -> None:
    assert heart.weighted({"a": 1.0, "b": 0.5}, {"a": 1, "b": 3}) == 0.625


def test_the_real_files_have_flambys_rows(tmp_path) -> None:
    root = heart.prepare(shared_file("heart_disease"), tmp_path / "prepared")
    made = heart.sites(root, rounds=1)
    data = sites_data(composed(made.experiment, made.overrides), made.sites, root)
    sizes = [len(one.train) + len(one.validation) + len(one.test) for one in data]
    assert tuple(sizes) == heart.ROWS
    for one, count in zip(data, heart.ROWS, strict=True):
        assert abs(len(one.test) - heart.TEST * count) <= 1
    assert all(np.isfinite(heart.rows(one.train)).all() for one in data)
