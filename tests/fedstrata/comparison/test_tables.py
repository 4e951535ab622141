"""The comparison as tables that a reader, a log and Markdown can take."""

from __future__ import annotations

from fedstrata.comparison.rows import compared
from fedstrata.comparison.tables import COSTS, markdown, plain, tables_of
from tests.helpers.comparisons import a_run

ALONE = {"north": 0.5, "south": 0.5}


def runs_of(*seeds: int, **more: object) -> list[object]:
    better = {"north": 0.75, "south": 0.75}
    return [a_run(seed, better, alone=ALONE, rounds=[ALONE], **more) for seed in seeds]  # type: ignore[arg-type]


def test_a_table_has_means_with_deviations_and_gains_in_points() -> None:
    runs = [*runs_of(1, 2), *runs_of(1, 2, method="ditto")]
    first, costs = tables_of(compared(runs, {"": 0.6}))  # type: ignore[arg-type]
    assert first.title == "grade, 2 sites, after the last round"
    assert first.headings == (
        *("row", "seeds", "accuracy", "weighted", "worst site", "over alone", "better alone"),
        *("over method=fedavg", "rounds to 60.00 %"),
    )
    assert first.rows[1] == (
        *("method=ditto", "2", "75.00 ± 0.00 %", "75.00 ± 0.00 %", "75.00 ± 0.00 %"),
        *("+25.00 ± 0.00 points", "0 of 2", "+0.00 ± 0.00 points", "1"),
    )
    assert costs.title == COSTS
    assert costs.rows[0] == ("method=fedavg", "2", "1", "1.50", "3", "2")


def test_one_seed_has_no_deviation_and_is_named() -> None:
    first, _ = tables_of(compared(runs_of(7)))  # type: ignore[arg-type]
    assert first.rows[0][:3] == ("method=fedavg", "one (7)", "75.00 %")


def test_the_best_on_test_data_is_shown_only_where_asked_for_and_marked() -> None:
    part = compared(runs_of(1))  # type: ignore[arg-type]
    assert "best on test" not in markdown(part)
    assert "best on test data, which chose the state" in markdown(part, best_on_test=True)


def test_text_from_files_is_nothing_but_text() -> None:
    hostile = "a|b\n<script>[x](y)\x1b[2J"
    text = markdown(compared(runs_of(1, method=hostile)))  # type: ignore[arg-type]
    assert "method=a\\|b?&lt;script>\\[x\\](y)?\\[2J" in text
    assert "\x1b" not in plain(compared(runs_of(1, method=hostile)))  # type: ignore[arg-type]


def test_long_names_are_cut_and_stay_apart() -> None:
    runs = [*runs_of(1, method="x" * 80 + "1"), *runs_of(1, method="x" * 80 + "2")]
    first, _ = tables_of(compared(runs))  # type: ignore[arg-type]
    names = [row[0] for row in first.rows]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 80


def test_a_log_has_the_same_tables_and_notes() -> None:
    text = plain(compared(runs_of(1)))  # type: ignore[arg-type]
    assert "75.00 %" in text
    assert "note: one seed" in text
