"""`fedstrata check`: what a run would find in the data, without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from fedstrata.cli.check import lines, main
from tests.helpers.data_files import fill

KEYS = {
    *("task", "kind", "classes", "examples", "left_out", "missing", "range", "size", "groups"),
    *("warnings", "errors", "leaves"),
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    fill(folder / "cat", 0, 20)
    fill(folder / "dog", 20, 30)
    return folder


def checked(
    capsys: pytest.CaptureFixture[str], *words: str, status: int = 0
) -> tuple[dict[str, Any], str]:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    printed = capsys.readouterr().out
    assert ended.value.code == status
    return json.loads(printed), printed


def images(folder: Path, *more: str) -> list[str]:
    return ["experiment=images", f"data-root={folder}", "data.size=8", "model=small_cnn", *more]


def test_what_a_run_would_take_is_one_object(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, _ = checked(capsys, *images(pictures))
    assert shown.keys() >= KEYS
    assert (shown["task"], shown["kind"], shown["classes"]) == ("label", "classes", ["cat", "dog"])
    assert shown["examples"]["train"] == {"cat": 14, "dog": 21}
    assert shown["leaves"]["classes"] == ["cat", "dog"]
    assert shown["errors"] == []


def test_there_is_a_picture_of_what_the_network_sees(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    shown, _ = checked(capsys, *images(pictures), "--sheet", str(sheet))
    assert shown["contact_sheet"] == str(sheet)
    assert Image.open(sheet).size == (4 * 132 + 4, 4 * 146 + 4)
    assert sheet.stat().st_mode & 0o077 == 0


def test_the_sizes_of_pictures_are_said_before_and_after(
    pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(pictures / "cat" / "turned.jpg", exif=exif)
    Image.new("RGB", (3, 5)).save(pictures / "cat" / "small.png")
    for _ in range(2):  # from the files, and then as they were stored
        shown, _ = checked(capsys, *images(pictures))
        before = shown["size"]["before"]
        assert (before["smallest"], before["largest"]) == ([3, 5], [30, 40])
        assert (before["commonest"], before["commonest_count"]) == ([10, 12], 50)
        assert shown["size"]["after"] == [8, 8]
        monkeypatch.setattr("client_app.data.pictures.decode_all", None)
    text = "\n".join(lines(shown))
    assert (
        "size of the pictures: 3x5 to 30x40, most often 10x12 (50); the central square "
        "becomes 8x8 for the network" in text
    )


def test_a_relative_folder_is_that_of_whoever_typed_it(
    pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)
    shown, _ = checked(capsys, *images(Path("pictures")))
    assert shown["errors"] == []


def test_what_has_to_be_mended_is_an_error_and_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, printed = checked(capsys, *images(tmp_path / "nowhere"), status=1)
    assert "does not exist" in shown["errors"][0]
    assert shown.keys() >= KEYS
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=imges"], "nearest: 'images'"),
        (["data.sise=8"], "data has no 'sise'"),
        (["pictures"], "write key=value"),
        (["seed=1,2"], "one of them at a time"),
        (["--site", "/nowhere/site.yaml"], "/nowhere/site.yaml"),
        (["--sites", "0"], "at least one"),
    ],
)
def test_a_wrong_configuration_is_said_in_the_same_form(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, _ = checked(capsys, *words, status=1)
    assert said in shown["errors"][0]


def test_several_sites_are_read_as_a_simulation_would(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, _ = checked(capsys, *images(pictures), "--sites", "2")
    each = [sum(one["examples"]["train"].values()) for one in shown["sites"]]
    assert len(each) == 2
    assert sum(each) == sum(shown["examples"]["train"].values())
    (text,) = {error for one in shown["sites"] for error in one["errors"]} or {""}
    assert text == ""


def test_the_same_error_of_all_sites_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, _ = checked(capsys, *images(tmp_path / "nowhere"), "--sites", "3", status=1)
    assert len(shown["errors"]) == 1


def site_file(folder: Path, data: Path, **entries: Any) -> str:
    """Write a site.yaml; return its path."""
    given = {
        **{"site": "north", "task": "label", "share": ["common", "task"], "device": "cpu"},
        **{name: str(folder / name) for name in ("state", "cache")},
    }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({**given, "data": str(data), **entries}))
    return str(path)


NAMED = "data.classes={label:[cat,dog]}"
DEPLOYED = ["experiment=images", "data.size=8", "model=small_cnn"]


def test_a_deployed_site_lets_out_what_its_guard_lets_out(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*DEPLOYED, "--site", site_file(tmp_path, pictures)]
    shown, _ = checked(capsys, *words, status=1)
    assert "data.classes=null" in shown["errors"][0]
    assert str(pictures) not in json.dumps(shown["leaves"])

    shown, _ = checked(capsys, *words, NAMED)
    assert (shown["leaves"]["site"], shown["leaves"]["device"]) == ("north", "cpu")
    assert "later" not in shown["leaves"]  # as on the wire

    site_file(tmp_path, pictures, errors="brief")
    shown, _ = checked(capsys, *words, status=1)
    assert shown["leaves"] == {"error": "the app failed: see the site's log"}


@pytest.mark.parametrize(
    ("entries", "reason", "left"),
    [
        ({"classes": ["cat", "cow"]}, "the app names 1 classes", "the app names 1 classes"),
        ({"classes": ["cat", "cow"], "errors": "brief"}, "the app names 1", "the app failed"),
        ({"share": ["task"]}, "this site shares task", "this site shares task"),
        ({"plan": {"models": ["resnet18"]}}, "the plan trains 'small_cnn'", "trains 'small_cnn'"),
        ({"plan": {"min-examples": 36}}, "fewer training examples", "fewer training examples"),
    ],
)
def test_what_the_guard_refuses_has_to_be_mended(
    entries: dict[str, Any],
    reason: str,
    left: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*DEPLOYED, NAMED, "--site", site_file(tmp_path, pictures, **entries)]
    shown, _ = checked(capsys, *words, status=1)
    assert shown["errors"][0].startswith("the site's process lets nothing out: ")
    assert reason in shown["errors"][0]
    assert shown["leaves"].keys() == {"error"}
    assert shown["leaves"]["error"].startswith("refused by the site: ")
    assert left in shown["leaves"]["error"]


def test_missing_values_are_counted_by_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "north.csv"
    rows = [f"{n % 7},{'xy'[n % 2]},{'ab'[n // 2 % 2]}" for n in range(60)]
    rows[:3] = [",,a", ",,b", ",,a"]
    rows[3:6] = ["1,,b", "2,,NA", "3,x,b"]
    table.write_text("\n".join(["age,color,label", *rows]))
    words = [f"data-root={table}", "experiment=tabular", "data.categories={color:[x,y]}"]
    shown, _ = checked(capsys, *words, "data.duplicates=keep")
    assert shown["missing"] == {"age": 3, "color": 5, "label": 1}
    assert "missing values by column: age 3, color 5, label 1" in lines(shown)


def test_labels_that_a_manifest_lacks_are_missing_values(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    cells = [f"{path},{'' if n < 4 else path.parts[0]}" for n, path in enumerate(files)]
    (pictures / "labels.csv").write_text("\n".join(["path,label", *cells]))
    shown, _ = checked(capsys, *images(pictures, "data.manifest=labels.csv"))
    assert shown["missing"] == {"label": 4}
    shown, _ = checked(capsys, *images(pictures))
    assert shown["missing"] == {}
    assert not [line for line in lines(shown) if "missing" in line]


def test_the_sums_that_leave_before_the_rounds_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "north.csv"
    rows = (f"{n % 7},{'ab'[n % 2]},{'train' if n < 30 else 'validation' if n < 40 else 'test'}"
            for n in range(50))  # fmt: skip
    table.write_text("\n".join(["age,label,split", *rows]))
    words = ["experiment=tabular", "data.standardize=agreed", "data.features=[age]"]
    words += ["data.classes={label:[a,b]}", "--site"]
    allowed = {"models": ["linear"], "sums": True}
    shown, _ = checked(capsys, *words, site_file(tmp_path, table, plan=allowed))
    ages = [n % 7 for n in range(30)]
    inputs = {"count": [30], "total": [sum(ages)], "squares": [sum(age * age for age in ages)]}
    assert shown["leaves"]["sums"]["inputs"] == inputs

    few = {**allowed, "min-examples": 31}
    shown, _ = checked(capsys, *words, site_file(tmp_path, table, plan=few), status=1)
    assert "fewer training rows" in shown["errors"][0]
    none = {"models": ["linear"]}
    shown, _ = checked(capsys, *words, site_file(tmp_path, table, plan=none), status=1)
    assert "asks for sums" in shown["errors"][0]


def test_the_categories_that_leave_before_the_site_joins_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "north.csv"
    table.write_text("\n".join(["cp,label", *(f"{n % 3},{'ab'[n // 3 % 2]}" for n in range(60))]))
    words = ["experiment=tabular", "data.categories={cp:agreed}", "data.features=[cp]"]
    words += ["data.classes={label:[a,b]}", "data.duplicates=keep", "--site"]
    allowed = {"models": ["linear"], "categories": ["cp"]}
    shown, _ = checked(capsys, *words, site_file(tmp_path, table, plan=allowed))
    assert shown["leaves"]["categories"]["columns"] == {"cp": ["0", "1", "2"]}
    none = {"models": ["linear"]}
    shown, _ = checked(capsys, *words, site_file(tmp_path, table, plan=none), status=1)
    assert "asks for the names of the categories in the column 'cp'" in shown["errors"][0]
    assert "categories" not in shown["leaves"]


def test_a_home_that_there_is_not_is_a_folder_that_does_not_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown, _ = checked(capsys, *images(Path("~nobody-here/pictures")), status=1)
    assert "does not exist" in shown["errors"][0]


def test_a_person_reads_a_table(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(images(pictures))
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert "  cat            14           2           4" in printed
    assert printed.rstrip().endswith("a run can use these data")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return the site's cache, and next to it its state, both of this user and empty."""
    for name in ("cache", "state"):
        (tmp_path / name).mkdir(mode=0o700)
    return tmp_path / "cache"


def written(folder: Path) -> list[Path]:
    """Return all that stands in the cache and the state."""
    return [*(folder / "cache").rglob("*"), *(folder / "state").rglob("*")]


@pytest.mark.parametrize("entries", [{}, {"app-user": "1234:1234"}])
def test_another_user_than_the_apps_writes_nothing_into_the_sites_folders(
    pictures: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    entries: dict[str, Any],
) -> None:
    words = [*DEPLOYED, NAMED, "--site", site_file(tmp_path, pictures, **entries)]
    words += ["--sheet", str(tmp_path / "sheet.png")]
    if not entries:
        monkeypatch.setattr("fedstrata.cli.check.os.geteuid", lambda: cache.stat().st_uid + 1)
    shown, _ = checked(capsys, *words)
    assert not written(tmp_path)
    assert any("nothing is written into the site's folders" in note for note in shown["notes"])
    assert shown["examples"]["train"] == {"cat": 14, "dog": 21}


def test_the_apps_own_user_fills_the_cache(
    pictures: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*DEPLOYED, NAMED, "--site", site_file(tmp_path, pictures)]
    shown, _ = checked(capsys, *words, "--sheet", str(tmp_path / "sheet.png"))
    assert {path.relative_to(tmp_path).parts[0] for path in written(tmp_path)} == {"cache"}
    assert not any("nothing is written" in note for note in shown["notes"])


def test_root_makes_no_cache_that_the_app_could_not_use(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr("fedstrata.cli.check.os.geteuid", lambda: 0)
    words = [*DEPLOYED, NAMED, "--site", site_file(tmp_path, pictures)]
    checked(capsys, *words, "--sheet", str(tmp_path / "sheet.png"))
    assert not (tmp_path / "cache").exists()


def test_of_several_sites_the_ranges_are_all_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = np.random.default_rng(0)
    for hospital, high in (("north", 4095), ("south", 60000)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / hospital / name
            folder.mkdir(parents=True)
            for number in range(10):
                values = numbers.integers(0, high, (8, 8), dtype=np.uint16)
                values[0, :2] = 0, high
                Image.fromarray(values).save(folder / f"{number}.png")
        (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    words = ["data.domains=true", "data.site_split.scheme=natural", "--sites", "2"]
    shown, _ = checked(capsys, *images(tmp_path / "pictures", *words))
    assert shown["range"] == [0, 60000]
    assert [one["range"] for one in shown["sites"]] == [[0, 4095], [0, 60000]]
    assert any("unlike ranges" in text and "4095" in text for text in shown["warnings"])
    text = "\n".join(lines(shown))
    first, second = (one["site"] for one in shown["sites"])
    assert f"the lowest from 0 ({first}), the highest up to 60000 ({second})" in text
    assert "range 0 to 4095\n" in text
    assert "left out, suffix, at most at one site: 1" in text


def test_sites_with_one_range_have_one_line(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = images(pictures, "data.range=[0,200]", "--sites", "2")
    shown, _ = checked(capsys, *words)
    assert shown["range"] == [0, 200]
    assert "range of values: 0 to 200 become 0 to 1" in lines(shown)
    assert not any("unlike" in text for text in shown["warnings"])


def test_sites_with_different_networks_are_checked_against_each_other(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ["+model@models.wide=small_cnn", "+model@models.tiny=mlp", "model.head=[8]"]
    words = [*images(pictures, *two), "--sites", "2", "groups=all_common", "method=lg_fedavg"]
    shown, _ = checked(capsys, *words, status=1)
    (error,) = shown["errors"]
    assert error.startswith("what model 'wide' exchanges in group 'common' does not agree in shape")
    shown, _ = checked(capsys, *words, "method.common=[head.out]")
    assert [one["leaves"]["model"] for one in shown["sites"]] == ["tiny", "wide"]
    assert any(" (tiny): train" in line or ", tiny): train" in line for line in lines(shown))
