"""Pictures, real data as the product reads them, ways of transfer, and what they cost."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy import prepare
from benchmarks.accuracy import transfer_sets as ways
from benchmarks.accuracy.central import sites_data
from benchmarks.measure.footprint import footprint
from benchmarks.report import pictures
from fedstrata.support.errors import UserError
from models.training.data import ArrayInputs, SiteData, Split
from server_app.compose import compose


def numbers(rows: int, classes: int = 3, site: str = "s") -> SiteData:
    def split() -> Split:
        values = np.random.default_rng(0).normal(size=(rows, 10)).astype(np.float32)
        return Split(ArrayInputs(values), np.arange(rows) % classes)

    return SiteData(site, "t", tuple("abc"[:classes]), (10,), split(), split(), split())


def test_pictures_are_drawn(tmp_path: Path) -> None:
    lines = {"one": [[0.1, 0.5, 0.6], [0.2, 0.4, 0.7]], "two": [[0.3, 0.3, 0.3]]}
    pictures.curves(tmp_path / "curves.png", "Title", lines, levels={"majority": 0.25})
    held = [numbers(5 + i, site=f"site-{i}") for i in range(8)]
    pictures.who_holds_what(tmp_path / "sites.png", "Title", held)
    for name in ("curves.png", "sites.png"):
        with Image.open(tmp_path / name) as image:
            assert image.size[0] > 400
            assert len(image.convert("L").getcolors(256) or []) > 20


def test_each_face_answers_one_question(tmp_path: Path) -> None:
    source = tmp_path / "faces.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for number in range(9):
            archive.writestr(
                f"{10 * number}_{number % 2}_{number % 5}_2017{number}.jpg.chip.jpg", b"x"
            )
        archive.writestr("61_1_20170109_no_race.jpg.chip.jpg", b"x")
    folder = prepare.utkface(source, tmp_path)
    rows = list(csv.DictReader((folder / prepare.MANIFEST).open()))
    assert len(rows) == 9
    for row in rows:
        told = [task for task in prepare.TASKS if row[task]]
        assert len(told) == 1
        age, gender, race = map(int, row["path"].split("_")[:3])
        assert row["gender"] in ("", prepare.GENDERS[gender])
        assert row["race"] in ("", prepare.RACES[race])
        assert row["age"] in ("", "under-20" if age < 20 else row["age"])
    asked = [next(task for task in prepare.TASKS if row[task]) for row in rows]
    assert {task: asked.count(task) for task in prepare.TASKS} == {"gender": 3, "age": 3, "race": 3}


def test_another_archive_is_unpacked_anew(tmp_path: Path) -> None:
    source = tmp_path / "faces.zip"

    def folder(**pictures: bytes) -> dict[str, bytes]:
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in pictures.items():
                archive.writestr(f"all/{name}_1_2_2017.jpg", content)
        found = prepare.utkface(source, tmp_path / "work")
        return {path.name.split("_")[0]: path.read_bytes() for path in found.rglob("*.jpg")}

    first = folder(**{"30": b"x", "31": b"y"})
    assert first == {"30": b"x", "31": b"y"}
    assert folder(**{"30": b"z", "31": b"y"}) == first  # the same names and sizes
    assert folder(**{"30": b"xx"}) == {"30": b"xx"}


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "bad.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("../outside.jpg", b"x")
    with pytest.raises(UserError, match="outside"):
        prepare.pacs(source, tmp_path / "work")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        prepare.unpacked(tmp_path / "none.zip", tmp_path)


SETS = [
    ways.drawn_faces(2, 10),
    ways.drawn_faces(2, None),
    ways.pneumonia(Path("/d"), Path("/w.npz"), 2, 10, skewed=True),
    ways.pacs(Path("/d"), Path("/w.npz"), 2, None),
    ways.deployment(2),
    ways.text(Path("/d"), Path("/m/tiny-bert"), 4, "topic", 2, None),
]


@pytest.mark.parametrize("held", SETS, ids=lambda held: held.name)
def test_every_way_is_a_configuration(held: ways.Set) -> None:
    made = [compose(held.experiment, [*held.overrides, *way.overrides]) for way in held.ways]
    assert len({str(config.to_dict()) for config in made}) == len(made)
    assert len({way.name for way in held.ways}) == len(made)


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
    assert cost.activations == 4 * 5 * (
        10 + 4
    )  # the inputs of both layers, one of them ReLU's output


def test_frozen_layers_cost_no_activations() -> None:
    overrides = [
        "model=small_cnn",
        "model.head=[]",
        "weights=none",
        "data.train=20",
        "data.size=28",
    ]
    whole = compose("faces", [*overrides, "groups=all_common"])
    frozen = ["groups.pretrained=[conv1,bn1,conv2,bn2,conv3,bn3]", "groups.common=[head]"]
    head = compose("faces", [*overrides, "groups=all_common", *frozen])
    (held,) = sites_data(whole, 1, None)
    costs = [footprint(config, held.data) for config in (whole, head)]
    assert costs[1].activations < costs[0].activations / 50
    assert costs[1].trained == 256 * 2 + 2
    assert costs[1].sent == 4 * costs[1].trained
