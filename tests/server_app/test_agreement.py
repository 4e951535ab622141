"""Before the rounds all sites get one scale, from the sums of all, and one list of categories."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedstrata.protocol import kinds
from fedstrata.protocol.answers import answer, failure, read_sums_report
from fedstrata.protocol.categories import CategoriesReport
from fedstrata.protocol.sums import ColumnSums
from fedstrata.support.errors import UserError
from tests.helpers.runs import Crash, same, states, without_times
from tests.loopback import LoopbackGrid, simulate

HOSPITALS = ("east", "north", "south")
OVERRIDES = [
    "data.standardize=agreed",
    "strategy.rounds=2",
    "strategy.poll=0.01",
    "baselines.alone=false",
]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Return a folder with three hospitals' tables, whose ages are far apart."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for number, name in enumerate(HOSPITALS):
        generator = np.random.default_rng(number)
        ages = generator.normal(30 + 20 * number, 5, size=40)
        rows = [f"{age:.1f},{'?' if n == 3 else n % 2},{'sick' if age > 50 else 'well'},"
                f"{'test' if n < 10 else 'validation' if n < 15 else 'train'}"
                for n, age in enumerate(ages)]  # fmt: skip
        (folder / f"{name}.csv").write_text("\n".join(["age,sex,label,split", *rows]))
    return folder


def play(tables: Path, output: Path, name: str, *overrides: str, **more) -> dict:
    more = {"sites": 3, **more}
    results, _ = simulate(
        output, "tabular", [*OVERRIDES, *overrides], name=name, data_root=str(tables), **more
    )
    return results


def agreed(output: Path, name: str) -> dict:
    return json.loads((output / name / "run.json").read_text())["agreed"]


def training_ages(tables: Path) -> np.ndarray:
    lines = [line.split(",") for name in HOSPITALS
             for line in (tables / f"{name}.csv").read_text().splitlines()]  # fmt: skip
    return np.array([float(cells[0]) for cells in lines if cells[3] == "train"])


def test_the_scale_is_that_of_all_training_rows(tables: Path, tmp_path: Path) -> None:
    play(tables, tmp_path, "one")
    scale, ages = agreed(tmp_path, "one"), training_ages(tables)
    assert scale["mean"][0] == pytest.approx(ages.mean(), abs=1e-6)
    assert scale["std"][0] == pytest.approx(ages.std(), abs=1e-6)


def test_the_scale_given_beforehand_leads_to_the_same_bits(tables: Path, tmp_path: Path) -> None:
    play(tables, tmp_path, "one")
    scale = agreed(tmp_path, "one")
    given = f"data.constants={{mean:{scale['mean']},std:{scale['std']}}}".replace(" ", "")
    play(tables, tmp_path, "two", given)
    assert same(states(tmp_path, "one"), states(tmp_path, "two"))


def test_a_resumed_run_goes_on_with_the_scale_that_it_has(tables: Path, tmp_path: Path) -> None:
    whole = play(tables, tmp_path, "whole")

    def crash(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN and message.metadata.group_id == "2":
            raise Crash
        return reply

    with pytest.raises(Crash):
        play(tables, tmp_path, "again", tamper=crash)
    asked: list[str] = []

    def note(message: Message, reply: Message) -> Message:
        asked.append(message.metadata.message_type)
        return reply

    resumed = play(tables, tmp_path, "", resume="again", tamper=note)
    assert kinds.SUMS not in asked
    assert agreed(tmp_path, "again") == agreed(tmp_path, "whole")
    assert same(states(tmp_path, "again"), states(tmp_path, "whole"))
    assert without_times(resumed)["final"] == without_times(whole)["final"]


def test_cohorts_send_the_sums_of_each_site(tables: Path, tmp_path: Path) -> None:
    play(tables, tmp_path, "one")
    play(tables, tmp_path, "cohort", "cohort.sites=3", sites=1)
    assert agreed(tmp_path, "cohort") == agreed(tmp_path, "one")


def test_one_site_alone_has_nobody_to_agree_with(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the sums of one site would be its own"):
        play(tables, tmp_path, "one", sites=1)


def test_numbers_to_predict_are_scaled_by_the_sums_of_all(tables: Path, tmp_path: Path) -> None:
    chosen = ["data.tasks={years:{column:age,kind:number,unit:years}}", "data.exclude=[label]"]
    results = play(tables, tmp_path, "years", *chosen)
    ages, scale = training_ages(tables), agreed(tmp_path, "years")["targets"]["years"]
    assert scale["mean"] == [pytest.approx(ages.mean(), abs=1e-6)]
    assert scale["std"] == [pytest.approx(ages.std(), abs=1e-6)]
    for site in results["sites"].values():
        assert site["numbers"]["mean"] == scale["mean"]
    errors = [site["mae"] for site in results["final"]["sites"].values()]
    assert max(errors) < 60  # years, not deviations
    assert max(errors) > 5


def test_a_site_that_sends_no_sums_is_left_out_of_them(
    tables: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.SUMS and message.metadata.dst_node_id == 101:
            return failure(message, "north", 0, "not today")
        return reply

    play(tables, tmp_path, "one", tamper=refuse)
    assert "site north sent no sums: not today" in caplog.text
    assert "each can compute the other's means" in caplog.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site": "other"}, "answers as 'other'"),
        ({"inputs": ColumnSums((9,), (1.0,), (1.0,))}, "sends sums of 1 inputs"),
        ({"inputs": ColumnSums((90, 9), (1.0, 1.0), (1.0, 1.0))}, "more rows than the 25"),
        ({"targets": ColumnSums((9,), (1.0,), (1.0,))}, "sends sums of 1 targets"),
    ],
)
def test_sums_that_are_not_the_sites_own_end_a_run_of_few(
    tables: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict, reason: str
) -> None:
    def forge(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.SUMS and message.metadata.dst_node_id == 101:
            return answer(message, replace(read_sums_report(reply), **changes), {})
        return reply

    with pytest.raises(UserError, match="2 of 3 sites sent their sums, and 3 are needed"):
        play(tables, tmp_path, "one", "strategy.min_sites=3", tamper=forge)
    assert reason in caplog.text


# -- categories ------------------------------------------------------------------------------------

BY_COLOR = [
    "data.features=[age,color]",
    "data.categories={color:agreed}",
    "data.classes={label:[sick,well]}",
    "strategy.rounds=2",
    "strategy.poll=0.01",
    "baselines.alone=false",
]


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """Return a folder with three hospitals' tables; no two have the same colors."""
    folder = tmp_path / "colors"
    folder.mkdir()
    for name, own in zip(HOSPITALS, ("red,blue", "blue", "green,"), strict=True):
        words = own.split(",")
        rows = [f"{n % 7},{words[n // 2 % len(words)]},{'sick' if n % 2 else 'well'},"
                f"{'test' if n < 10 else 'validation' if n < 20 else 'train'}"
                for n in range(60)]  # fmt: skip
        (folder / f"{name}.csv").write_text("\n".join(["age,color,label,split", *rows]))
    return folder


def hospitals(colors: Path) -> LoopbackGrid:
    """Return a grid of deployed sites, each with its own file alone."""
    nodes = {
        100 + number: {
            "site": name,
            "data-root": str(colors / f"{name}.csv"),
            "state-dir": str(colors.parent / "state" / name),
            "cache-dir": str(colors.parent / "cache" / name),
        }
        for number, name in enumerate(HOSPITALS)
    }
    return LoopbackGrid(nodes)


def deploy(colors: Path, output: Path, name: str, *overrides: str, **more) -> tuple[dict, list]:
    grid = hospitals(colors)
    grid.tamper = more.pop("tamper", grid.tamper)
    kept = ["data.duplicates=keep", *overrides]
    results, _ = simulate(output, "tabular", [*BY_COLOR, *kept], name=name, grid=grid, **more)
    return results, [message.metadata.message_type for message in grid.sent]


def named(output: Path, name: str) -> dict:
    return json.loads((output / name / "run.json").read_text())["categories"]


def test_deployed_sites_agree_on_categories(colors: Path, tmp_path: Path) -> None:
    results, asked = deploy(colors, tmp_path, "one")
    assert named(tmp_path, "one") == {"color": ["blue", "green", "red"]}
    assert asked[:9] == [kinds.QUERY] * 3 + [kinds.CATEGORIES] * 3 + [kinds.QUERY] * 3
    assert kinds.CATEGORIES not in asked[9:]
    assert sorted(results["sites"]) == sorted(HOSPITALS)
    listed = "data.categories={color:[blue,green,red]}"
    deploy(colors, tmp_path, "two", listed)
    assert same(states(tmp_path, "one"), states(tmp_path, "two"))


def test_a_simulation_agrees_on_the_same_categories(colors: Path, tmp_path: Path) -> None:
    chosen = [*BY_COLOR, "data.duplicates=keep"]
    for name, listed in (("one", "agreed"), ("two", "[blue,green,red]")):
        overrides = [*chosen, f"data.categories={{color:{listed}}}"]
        simulate(tmp_path, "tabular", overrides, name=name, sites=3, data_root=str(colors))
    assert named(tmp_path, "one") == {"color": ["blue", "green", "red"]}
    assert same(states(tmp_path, "one"), states(tmp_path, "two"))


def test_cohorts_name_the_categories_of_each_site(colors: Path, tmp_path: Path) -> None:
    chosen = [*BY_COLOR, "data.duplicates=keep", "cohort.sites=3"]
    simulate(tmp_path, "tabular", chosen, name="one", sites=1, data_root=str(colors))
    assert named(tmp_path, "one") == {"color": ["blue", "green", "red"]}


def test_scale_and_categories_are_agreed_in_one_run(colors: Path, tmp_path: Path) -> None:
    _, asked = deploy(colors, tmp_path, "one", "data.standardize=agreed")
    assert asked.index(kinds.SUMS) > asked.index(kinds.CATEGORIES)
    assert len(agreed(tmp_path, "one")["mean"]) == 4  # age and three colors


def test_a_resumed_run_goes_on_with_the_categories_that_it_has(
    colors: Path, tmp_path: Path
) -> None:
    def crash(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.TRAIN and message.metadata.group_id == "2":
            raise Crash
        return reply

    with pytest.raises(Crash):
        deploy(colors, tmp_path, "again", tamper=crash)
    _, asked = deploy(colors, tmp_path, "", resume="again")
    assert kinds.CATEGORIES not in asked
    assert named(tmp_path, "again") == {"color": ["blue", "green", "red"]}


def test_a_site_that_names_no_categories_can_still_fit(
    colors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(message: Message, reply: Message) -> Message:
        if (message.metadata.message_type, message.metadata.dst_node_id) == (kinds.CATEGORIES, 101):
            return failure(message, "north", 0, "not today")  # others have its one color
        return reply

    results, _ = deploy(colors, tmp_path, "one", "strategy.min_sites=2", tamper=refuse)
    assert "site north sent no categories: not today" in caplog.text
    assert "north" in results["sites"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site": "other"}, "answers as 'other'"),
        ({"columns": {"age": ("1",)}}, "names categories of other columns than color"),
        ({"columns": {"color": ("a\nb",)}}, "is no name"),
        ({"columns": {"color": tuple(map(str, range(201)))}}, "looks like an identifier"),
    ],
)
def test_categories_that_are_none_end_a_run_of_few(
    colors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict, reason: str
) -> None:
    def forge(message: Message, reply: Message) -> Message:
        if (message.metadata.message_type, message.metadata.dst_node_id) == (kinds.CATEGORIES, 101):
            report = CategoriesReport("north", {"color": ("blue",)})
            return answer(message, replace(report, **changes), {})
        return reply

    with pytest.raises(UserError, match="2 of 3 sites sent their categories, and 3 are needed"):
        deploy(colors, tmp_path, "one", "strategy.min_sites=3", tamper=forge)
    assert reason in caplog.text


def test_a_column_of_one_category_is_refused(colors: Path, tmp_path: Path) -> None:
    for name in HOSPITALS:
        path = colors / f"{name}.csv"
        path.write_text(path.read_text().replace("red", "blue").replace("green", "blue"))
    with pytest.raises(UserError, match="all sites together have 1 categories: leave this column"):
        deploy(colors, tmp_path, "one")
