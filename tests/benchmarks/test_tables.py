"""The benchmarks themselves, small: every file that they promise is there, and says what was run."""

from __future__ import annotations

import json
import py_compile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.accuracy import transfer_sets as ways
from benchmarks.accuracy.study import Case
from benchmarks.accuracy.table3 import Faces, Table3
from benchmarks.accuracy.table4 import Chosen, Table4
from benchmarks.collect import main as collect
from benchmarks.faults import main as faults
from benchmarks.paper import main as paper
from benchmarks.paper import parser as paper_parser
from benchmarks.report import tables
from benchmarks.report.command_line import anywhere, command_of
from benchmarks.rounds import main as rounds
from benchmarks.transfer import Deployment, Transfer, _counted
from benchmarks.transfer import main as transfer
from benchmarks.transfer import parser as transfer_parser
from models.networks import build
from tests.benchmarks.accuracy.test_study import Loopback
from tests.strategies.test_equalities import SMALL

QUICK = tuple(each for each in SMALL if not each.startswith(("model", "weights", "groups")))


def check(folder: Path, name: str, rows: int) -> dict[str, dict[str, object]]:
    """Check the files of a result; return its rows."""
    told = json.loads((folder / f"{name}.json").read_text())
    assert told["command"] == "python -m it"
    assert all(command.startswith("flwr run . --stream") for command in told["commands"].values())
    found = told["tables"][0]["rows"]
    assert len(found) == rows
    page = folder / "RESULTS.md"
    collect(["--results", str(folder), "--page", str(page)])
    assert (folder / f"{name}.md").read_text() in page.read_text()
    return dict(found)


def test_table_3_has_its_five_cases(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build("squeezenet1_1", input_shape=(3, 64, 64), classes=2, head=[])
    body = {n: t.contiguous() for n, t in network.state_dict().items() if "head" not in n}
    save_file(body, str(tmp_path / "body.safetensors"))
    faces = Faces(
        "drawn",
        "a few drawn faces",
        "faces",
        4,
        None,
        (*QUICK, "model.head=[8,8]"),
        ("groups.common=[]", "groups.task=[head]", "groups.personal=[]"),
        ("groups.common=[head.0]", "groups.task=[head.1,head.out]", "groups.personal=[]"),
        {"gender": 90.0, "pose": 80.0},
        ("train.optimizer.lr=0.005",),
    )
    table = Table3(faces, tmp_path / "body.safetensors", (1, 2))
    output = tmp_path / "output"
    table.run(Loopback(tmp_path), output, "python -m it")
    rows = check(output, "table3-drawn", 7)
    cases = [
        "centralized separate",
        "centralized joint",
        "distributed separate",
        "distributed separate FL",
        "distributed multi-task FL",
    ]
    assert [name for name in rows if name in cases] == cases
    assert all(len(rows[case]["gender, %"]["values"]) == 2 for case in cases)
    told = json.loads((output / "table3-drawn.json").read_text())
    assert "The centralized cases have train.optimizer.lr=0.005" in told["notes"][0]
    assert (output / "table3-drawn.png").exists()
    assert (output / "table3-drawn-sites.png").exists()


@pytest.fixture
def few() -> ways.Set:
    base = ("model=small_cnn", "weights=none", "groups=body_common_head_task")
    rows = (Case("all", base), Case("alone", (*base, "method=local")))
    return ways.Set("few", "a few faces", "faces", 4, None, (*QUICK, "baselines.alone=true"), rows)


def test_ways_of_transfer_stand_beside_alone_and_pooled(tmp_path: Path, few: ways.Set) -> None:
    Transfer(few, (1, 2)).run(Loopback(tmp_path), tmp_path / "output", "python -m it")
    rows = check(tmp_path / "output", "transfer-few", 3)
    assert rows["alone"]["federated, %"] == rows["alone"]["same sites alone, %"]
    assert rows["alone"]["pooled, %"] is None
    assert len(rows["all"]["pooled, %"]["values"]) == 2
    assert rows["alone"]["MB sent a site and round"] == "0"
    told = json.loads((tmp_path / "output" / "transfer-few.json").read_text())
    assert told["notes"][-1].endswith("than a site: 12 where a site makes 3.")  # of 96 and 24, by 8
    assert (tmp_path / "output" / "transfer-few.png").exists()
    assert (tmp_path / "output" / "transfer-few-sites.png").exists()


def test_deployment_tells_each_site_and_those_that_join(tmp_path: Path, few: ways.Set) -> None:
    tuned = Case(
        "tuned",
        (
            *few.ways[0].overrides,
            "deployment.epochs=1",
            "deployment.groups=[common,task]",
            "deployment.newcomers=[site-03]",
        ),
    )
    held = ways.Set(**{**vars(few), "ways": (tuned,)})
    Deployment(held, (1,)).run(Loopback(tmp_path), tmp_path / "output", "python -m it")
    rows = check(tmp_path / "output", "deployment", 4)
    assert [name for name in rows if "joins after training" in name] == [
        "site-03, pose (joins after training)"
    ]
    assert all(row["before, %"] and row["alone, %"] and row["pooled, %"] for row in rows.values())
    told = json.loads((tmp_path / "output" / "deployment.json").read_text())
    worse = [
        name.split(",")[0]
        for name, row in told["tables"][0]["rows"].items()
        if row["after, %"]["values"] < row["before, %"]["values"]
    ]
    assert f"than before at {_counted(worse, 4)}; alone is better" in told["notes"][0]
    assert told["notes"][-1].endswith("It has the data of those that join later, too.")
    assert len(told["curves"]["tuned"][0]) == 2
    for name in ("deployment.png", "deployment-sites.png"):
        assert (tmp_path / "output" / name).exists()
        assert f"(results/{name})" in (tmp_path / "output" / "RESULTS.md").read_text()


@pytest.mark.parametrize("labels", [None, 10])
def test_what_lies_below_the_majority_is_put_down_to_few_labels_only_where_they_are_few(
    few: ways.Set, labels: int | None
) -> None:
    mean = {"accuracy": 0.5, "alone_accuracy": 0.4, "majority_accuracy": 0.6}
    results = {"final": {"mean": mean}, "config": {"data": {"labels_per_class": labels}}}
    (note,) = Transfer(few, (1,))._notes({"all": [results]})
    assert "below the majority class (60.00 %)" in note
    assert ("as many labels of each class" in note) == (labels is not None)


def test_sites_are_counted_and_named() -> None:
    assert _counted([], 3) == "no site"
    assert _counted(["a", "b"], 3) == "2 of 3 sites (a, b)"
    assert _counted(["a", "b", "c"], 3) == "all 3 sites"


def test_results_do_not_tell_where_this_machine_keeps_things() -> None:
    words = ["--table", "4", "--work", "/srv/a/b", "--har", "/srv/a/har.npz", "--output=/srv/c/d"]
    assert command_of("x", words) == "python -m x --table 4 --har /data/har.npz"
    text = 'weights.path=/srv/models/a.npz groups.common=[a/b] data-root="/srv/x" rate=1/2'
    expected = 'weights.path=/data/a.npz groups.common=[a/b] data-root="/data/x" rate=1/2'
    assert anywhere(text) == expected


def test_the_command_lines() -> None:
    assert paper_parser().parse_args(["--table", "4", "--seeds", "1", "2"]).seeds == [1, 2]
    assert transfer_parser().parse_args([]).labels == [10]
    assert transfer_parser().parse_args(["--labels", "4", "all"]).labels == [4, None]
    with pytest.raises(SystemExit):
        transfer_parser().parse_args(["--labels", "10", "al"])
    with pytest.raises(SystemExit):
        paper_parser().parse_args(["--table", "5"])


@pytest.mark.parametrize("main", [faults, rounds])
def test_nothing_is_asked_for_that_would_change_nothing(
    main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert "--output" in told
    assert "--work" not in told
    assert "--seeds" not in told


def test_data_is_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDSTRATA_DATA", raising=False)
    assert paper_parser().parse_args(["--table", "4"]).har is None
    for main, words, option in (
        (paper, ["--table", "4"], "--har"),
        (paper, ["--table", "3", "--faces", "drawn"], "--weights"),
        (transfer, ["--sets", "faces", "pacs"], "--pacs"),
        (transfer, ["--sets", "faces", "text"], "--texts"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert f"{option} is needed" in capsys.readouterr().err
    monkeypatch.setenv("FEDSTRATA_DATA", str(tmp_path))
    assert paper_parser().parse_args(["--table", "4"]).har == tmp_path / "har.npz"
    with pytest.raises(SystemExit):
        paper(["--table", "4"])
    assert f"--har: there is no {tmp_path / 'har.npz'}" in capsys.readouterr().err


class Asked(Exception):
    """Ends a benchmark where it would begin its first runs."""


@pytest.mark.parametrize(("told", "chosen_on"), [(None, "blocks"), ("random", "random")])
def test_rates_of_table_4_are_chosen_on_the_split_they_are_for(
    tmp_path: Path, told: str | None, chosen_on: str
) -> None:
    class First(Loopback):
        def run(self, name: str, sites: int, run_config: dict[str, str]) -> str:
            assert name == f"har-grid-{chosen_on}"
            assert f"data.split={chosen_on} " in run_config["overrides"]
            raise Asked

    table = Table4(tmp_path / "har.npz", (1,), 3)
    with pytest.raises(Asked):
        table.run(First(tmp_path), tmp_path, "python -m it", ["blocks"], told)
    chosen = {"separate": Chosen(0.02, 16)}
    note = table._settings(chosen, "blocks", chosen_on)
    assert ("some of which are test windows" in note) == (chosen_on == "random")


def test_a_result_says_when_every_process_compiled_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "drawn_package" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not tables.compiled("drawn_package")
    assert not tables.compiled("drawn_nowhere")
    py_compile.compile(str(package))
    assert tables.compiled("drawn_package")

    for kept in (True, False):
        monkeypatch.setattr(tables, "compiled", lambda package, kept=kept: kept)
        tables.write(tmp_path, "it", [tables.Table("it", ("name", "s"))], command="python -m it")
        told = json.loads((tmp_path / "it.json").read_text())
        assert told["machine"]["compiled"] is kept
        assert (tables.UNCOMPILED in told["notes"]) is not kept
        assert (tables.UNCOMPILED in (tmp_path / "it.md").read_text()) is not kept
