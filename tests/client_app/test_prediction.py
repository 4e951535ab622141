"""The run's own figures can be had again from its model file: here, and in plain torch."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client_app.context import SiteContext
from client_app.model_inputs import ModelInputs, read_inputs
from client_app.prediction import (
    columns,
    figures,
    figures_of_run,
    outputs_of,
    over,
    own_test_examples,
    read_test_examples,
    rows,
    write_heat_maps,
    write_table,
)
from client_app.site_model import TEST_EXAMPLES
from fedstrata.protocol.task_kinds import LABELS, NUMBER, TaskKind
from fedstrata.support.errors import UserError
from models.export import export
from models.model_file import ModelFile, folder_of, network_of, read_model
from models.training.data import ArrayInputs
from tests.helpers import site_models
from tests.helpers.model_cards import card

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def sites(home: Path) -> dict[str, SiteContext]:
    """Return a site with pictures, one with a table, one with texts; each has its model."""
    pytest.importorskip("transformers")
    from tests.helpers.text_models import WORDS, tiny_bert

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSTRATA_HOME", str(home))
        tiny_bert(home / "models", WORDS)
        pictures = site_models.pictures(home / "pictures")
        table = site_models.table(home / "table.csv")
        texts = site_models.texts(home / "texts.csv")
        patch.setenv("FEDSTRATA_HOME", str(home / "a"))
        made = {"pictures": site_models.deployed("images", pictures, *site_models.PICTURES)}
        patch.setenv("FEDSTRATA_HOME", str(home / "b"))
        made["table"] = site_models.deployed("tabular", table, *site_models.TABLE)
        patch.setenv("FEDSTRATA_HOME", str(home / "c"))
        made["texts"] = site_models.deployed(
            "text", texts, *site_models.TEXTS, models=home / "models"
        )
    return made


def model_of(site: SiteContext) -> ModelFile:
    return read_model(site.store.deployed)


def table_of(site: SiteContext) -> Path:
    return site.store.folder / TEST_EXAMPLES


def listed(site: SiteContext) -> list[dict[str, str]]:
    with table_of(site).open() as file:
        return list(csv.DictReader(file))


KINDS = ("pictures", "table", "texts")


@pytest.mark.parametrize("kind", KINDS)
def test_the_runs_own_figures_are_had_again(sites: dict[str, SiteContext], kind: str) -> None:
    model = model_of(sites[kind])
    with folder_of(model) as models_dir:
        network = network_of(model, models_dir)
        known = own_test_examples(model, models_dir)
    assert not known.found.wrong
    outputs = outputs_of(network, known.found, device=CPU)
    of_run = figures_of_run(model.card)
    assert of_run["examples"] == len(known.targets) == model.card.examples["test"]
    found = figures(model.card, known, outputs)
    assert found == pytest.approx(of_run, abs=1e-6)


def plain_inputs(kind: str, rows: list[dict[str, str]], said: dict[str, Any]) -> torch.Tensor:
    """Prepare files as a stranger would who has the card as JSON alone."""
    given = said["preprocessing"]
    if kind == "pictures":
        made = []
        for row in rows:
            image = Image.open(row["file"]).convert("RGB")
            edge = min(image.size)
            left, upper = (image.width - edge) // 2, (image.height - edge) // 2
            image = image.crop((left, upper, left + edge, upper + edge))
            image = image.resize((given["size"],) * 2, Image.Resampling.BILINEAR)
            made.append(np.asarray(image, np.float32).transpose(2, 0, 1))
        return torch.from_numpy(np.stack(made))
    with Path(rows[0]["file"]).open() as file:
        lines = list(csv.DictReader(file))
    chosen = [lines[int(row["row"]) - 2] for row in rows]
    if kind == "table":
        age, place = given["columns"]
        numbers = [
            [float(each["age"]) if each["age"] else age["fill"]]
            + [float(each["place"] == name) for name in place["categories"]]
            for each in chosen
        ]
        return torch.tensor(numbers)
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["pictures", "table"])
def test_the_runs_accuracy_is_had_again_in_plain_torch(
    sites: dict[str, SiteContext], kind: str, tmp_path: Path
) -> None:
    model = model_of(sites[kind])
    made = export(network_of(model), model.card, "torchscript", tmp_path / "m.pt")
    said = json.loads(made.card.read_text())
    examples = listed(sites[kind])
    logits = torch.jit.load(str(made.path))(plain_inputs(kind, examples, said)).detach()
    hits = [
        said["outputs"][int(best)] == row["target"]
        for best, row in zip(logits.argmax(1), examples, strict=True)
    ]
    assert np.mean(hits) == pytest.approx(model.card.metrics["after"]["test"]["accuracy"])
    loss = torch.nn.functional.cross_entropy(
        logits, torch.tensor([said["outputs"].index(row["target"]) for row in examples])
    )
    assert float(loss) == pytest.approx(model.card.metrics["after"]["test"]["loss"], abs=1e-5)


def test_the_accuracy_on_texts_is_had_again_in_plain_torch(
    sites: dict[str, SiteContext], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    model, examples = model_of(sites["texts"]), listed(sites["texts"])
    with folder_of(model) as models_dir:
        network = network_of(model, models_dir)
        made = export(network, model.card, "torch.export", tmp_path / "m.pt2")
        tokenizer = AutoTokenizer.from_pretrained(str(models_dir / "tiny-bert"))
    with Path(examples[0]["file"]).open() as file:
        lines = list(csv.DictReader(file))
    chosen = [lines[int(row["row"]) - 2]["text"] for row in examples]
    ids = tokenizer(chosen, padding="max_length", truncation=True, max_length=8)["input_ids"]
    logits = torch.export.load(made.path).module()(torch.tensor(ids))
    hits = [
        model.card.outputs[int(best)] == row["target"]
        for best, row in zip(logits.argmax(1), examples, strict=True)
    ]
    assert np.mean(hits) == pytest.approx(model.card.metrics["after"]["test"]["accuracy"])


def test_a_text_without_a_word_costs_its_row_alone(
    sites: dict[str, SiteContext], tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("text\npatient cough\n\x01\x02\n  \nknee\n\x03\n")
    model = model_of(sites["texts"])
    with folder_of(model) as models_dir:
        found = read_inputs(model.card, [tmp_path / "t.csv"], models_dir)
    assert [row for _, row in found.places] == [2, 5]
    assert len(found.inputs) == 2
    empty, *unread = found.wrong
    assert "line 4: the column 'text' is empty" in empty
    assert ["line 3: the tok" in unread[0], "line 6: the tok" in unread[1]] == [True, True]


def test_what_has_changed_since_the_run_is_named(
    sites: dict[str, SiteContext], tmp_path: Path
) -> None:
    model = model_of(sites["pictures"])
    table = table_of(sites["pictures"]).read_text().splitlines()
    changed, gone = (Path(line.split(",")[0]) for line in table[1:3])
    copy = tmp_path / "copy.png"
    copy.write_bytes(changed.read_bytes() + b"more")
    table[1] = table[1].replace(str(changed), str(copy))
    table[2] = table[2].replace(str(gone), str(tmp_path / "gone.png"))
    (tmp_path / "t.csv").write_text("\n".join(table))
    known = read_test_examples(model.card, tmp_path / "t.csv", tmp_path)
    assert len(known.targets) == model.card.examples["test"] - 2
    assert [str(copy) in known.found.wrong[0], "gone.png" in known.found.wrong[1]] == [True, True]


@pytest.mark.parametrize(
    ("cells", "said"),
    [("one,0,{},cat", "is missing, or has changed"), ("{},x,{},cat", "'x' is no row")],
)
def test_another_table_is_rejected(
    sites: dict[str, SiteContext], tmp_path: Path, cells: str, said: str
) -> None:
    row = listed(sites["pictures"])[0]
    files = (row["file"], row["sha256"]) if cells.startswith("{") else (row["sha256"],)
    (tmp_path / "t.csv").write_text("file,row,sha256,target\n" + cells.format(*files))
    with pytest.raises(UserError, match=said):
        read_test_examples(model_of(sites["pictures"]).card, tmp_path / "t.csv", tmp_path)


def test_without_the_table_its_place_is_said(tmp_path: Path) -> None:
    model = ModelFile(tmp_path / "m.safetensors", card(), {})
    with pytest.raises(UserError, match=r"no test-examples\.csv or test-examples\.json beside"):
        own_test_examples(model, tmp_path)


@pytest.mark.parametrize("kind", ["drawn faces", "medmnist", "har"])
def test_the_runs_own_figures_are_had_again_where_examples_are_in_no_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "home"))
    site = site_models.SITES[kind](tmp_path)
    model = model_of(site)
    known = own_test_examples(model, tmp_path)
    outputs = outputs_of(network_of(model), known.found, device=CPU)
    assert figures(model.card, known, outputs) == pytest.approx(
        figures_of_run(model.card), abs=1e-6
    )
    assert len(known.found.places) == model.card.examples["test"]
    first, *_ = rows(model.card, known.found, outputs)
    assert first[0] == ("drawn" if kind == "drawn faces" else str(known.found.places[0][0]))


FOUND = ModelInputs(
    ArrayInputs(np.zeros((2, 3), np.float32)), ((Path("a.png"), 0), (Path("b.png"), 1))
)


@pytest.mark.parametrize(
    ("kind", "names", "wanted"),
    [
        (
            TaskKind(),
            ["prediction", "probability of cat", "probability of dog"],
            ["dog", 0.25, 0.75],
        ),
        (
            TaskKind(LABELS),
            ["prediction", "probability of cat", "probability of dog"],
            ["cat; dog", 0.5, 0.75],
        ),
        (
            TaskKind(NUMBER, mean=(40.0, 1.0), std=(10.0, 2.0), unit="years"),
            ["cat [years]", "dog [years]"],
            [40.0, 1.0 + 2.0 * np.log(3)],
        ),
    ],
)
def test_the_table_says_what_the_outputs_mean(
    kind: TaskKind, names: list[str], wanted: list[object]
) -> None:
    described = card(kind=kind)
    outputs = torch.tensor([[0.0, float(np.log(3))], [0.0, 0.0]])
    assert columns(described) == ["file", "row", *names]
    first, second = rows(described, FOUND, outputs)
    assert first[:2] == ["a.png", 0]
    assert first[2:] == pytest.approx(wanted) if kind.name == NUMBER else first[2:3] == wanted[:1]
    assert [x for x in first[2:] if isinstance(x, float)] == pytest.approx(
        [x for x in wanted if isinstance(x, float)], abs=1e-6
    )
    assert second[1] == 1


def test_tables_are_written_as_csv_or_parquet(tmp_path: Path) -> None:
    from pyarrow import parquet

    written = [["a", 1, 0.5], ["b", 2, 0.25]]
    for name in ("t.csv", "t.parquet"):
        write_table(tmp_path / name, ["file", "row", "p"], written)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "t.csv").read_text() == "file,row,p\na,1,0.5\nb,2,0.25\n"
    assert parquet.read_table(tmp_path / "t.parquet").to_pydict()["p"] == [0.5, 0.25]
    with pytest.raises(UserError, match=r"ends in \.csv or \.parquet"):
        write_table(tmp_path / "t.xls", [], [])


def test_each_picture_has_a_heat_map(sites: dict[str, SiteContext], tmp_path: Path) -> None:
    model = model_of(sites["pictures"])
    files = [Path(row["file"]) for row in listed(sites["pictures"])][:3]
    found = read_inputs(model.card, files, tmp_path)
    network = network_of(model)
    outputs = outputs_of(network, found, device=CPU)
    write_heat_maps(model.card, network, found, outputs, tmp_path / "maps")
    maps = sorted((tmp_path / "maps").iterdir())
    assert [each.name for each in maps] == [
        f"{n:05d}-{file.stem}.png" for n, file in enumerate(files, start=1)
    ]
    assert {each.stat().st_mode & 0o777 for each in maps} == {0o600}
    assert Image.open(maps[0]).size == (16, 16)


def test_heat_is_red_over_gray() -> None:
    image = np.asarray(over(torch.full((3, 1, 2), 0.5), torch.tensor([[0.0, 1.0]])))
    assert image[0].tolist() == [[128, 128, 128], [255, 0, 0]]


def test_heat_maps_are_of_pictures(sites: dict[str, SiteContext], tmp_path: Path) -> None:
    model = model_of(sites["table"])
    with pytest.raises(UserError, match="takes no pictures"):
        write_heat_maps(model.card, network_of(model), FOUND, torch.zeros(2, 2), tmp_path)
