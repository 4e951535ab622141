"""The page has the figures of results.json, loads nothing, and takes no text for code."""

from __future__ import annotations

import json
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedstrata.report import write_report
from fedstrata.report.page import MOST_RUNS, report_page
from fedstrata.support.errors import UserError
from tests.helpers.browser import seen_by_chromium
from tests.helpers.run_results import HOSTILE, cross_site, run_results, typed, write_run

# Elements that HTML closes by itself.
VOID = {"meta", "link", "br"}
LOADS = {"src", "srcset", "data", "action", "background", "poster", "xlink:href", "ping"}


class Page(HTMLParser):
    """The elements, values and text of a page; every element has to be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.values: list[float] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag == "data":
            self.values.append(float(dict(attributes)["value"] or "nan"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_every_figure_of_the_last_state_is_on_the_page_as_it_is_in_the_file() -> None:
    plain = run_results()
    page = Page(report_page([typed(plain)]))
    assert page.open == []
    rows = [*plain["final"]["tasks"].values(), *plain["final"]["sites"].values()]
    keys = ("accuracy", "mae", "auroc")
    names = [
        f"{before}{key}"
        for before in ("", "alone_", "pooled_", "majority_", "baseline_")
        for key in keys
    ]
    expected = {
        row[name] for row in rows for name in (*names, "spread") if row.get(name) is not None
    }
    expected |= {end for row in rows for end in row.get("interval", [])}
    expected |= {7.5 - 6.25, 0.8125 - 0.55, 2700.0, 600.0, 0.875, 0.0625}
    assert expected <= set(page.values)


@pytest.mark.parametrize("of", ["models", "updates"])
def test_the_cross_site_table_has_every_figure_of_the_file(of: str) -> None:
    cross = {**cross_site(of), "state": "last" if of == "updates" else "deployed"}
    text = report_page([typed(run_results(cross_site=cross))])
    page = Page(text)
    assert page.open == []
    assert {0.796875, 0.390625, 0.703125} <= set(page.values)
    words = " ".join(page.words)
    assert ("trained the last state once more" in words) is (of == "updates")
    assert ("the last state, fine-tuned by the site itself, after round 3" in words) is (
        of == "models"
    )
    assert "not measured on the data of south" in words
    assert "1 site not in the table" in words
    assert HOSTILE not in text
    assert "Cross-site" not in report_page([typed(run_results())])


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    text = report_page([typed(run_results())])
    page = Page(text)
    assert not page.tags & {"script", "iframe", "img", "object", "embed", "base", "form"}
    assert not [name for name, _ in page.attributes if name in LOADS or name.startswith("on")]
    assert [v for name, v in page.attributes if name == "href"] == ["data:,"]
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text


def test_names_and_reasons_stay_text() -> None:
    plain = run_results()
    plain["versions"]["python"] = f"3 {HOSTILE}\x1b[0m"
    plain["run"] = HOSTILE
    plain["partition"] = {HOSTILE: plain["partition"]["grade"]}
    plain["participation"] = {HOSTILE: ["took part"]}
    plain["final"]["tasks"]["grade"]["worst"] = {"site": HOSTILE, "accuracy": HOSTILE}
    text = report_page([typed(plain)])
    assert "<script" not in text
    assert "\x1b" not in text
    assert sum(HOSTILE in word for word in Page(text).words) > 8


@pytest.mark.parametrize("rounds", [0, 1, 400])
def test_a_run_of_any_length_has_a_page(rounds: int) -> None:
    page = report_page([typed(run_results(rounds))])
    assert Page(page).open == []
    assert len(page) < 400_000


def test_what_a_run_does_not_have_yet_is_left_out() -> None:
    page = report_page([typed(run_results(final=None))])
    assert "The run has not ended" in page
    assert "<h2>Sites</h2>" not in page
    assert "<h2>Classes</h2>" not in page


def test_the_best_state_and_the_fine_tuning_are_there() -> None:
    plain = run_results()
    site = {"before": {"accuracy": 0.5}, "after": {"accuracy": 0.7109375}, "gain": 0.2109375}
    age = {"kind": "number", "unit": "years", "before": {"mae": 7.0625}, "after": {"mae": 6.9375}}
    plain["deployment"] = {"sites": {"north": site, "east": age}, "newcomers": {}, "refused": {}}
    plain["best"] = {**plain["final"], "round": 2, "metric": "loss", "over": "worst", "value": 1.0}
    text = report_page([typed(plain)])
    assert {0.7109375, 0.2109375, 7.0625, 6.9375} <= set(Page(text).values)
    assert (
        "The best state is that after round 2: validation data chose it by loss, worst site."
        in text
    )


def test_a_hundred_sites_stay_a_small_page() -> None:
    plain = run_results()
    plain["final"]["sites"] = {f"s{n:03}": plain["final"]["sites"]["north"] for n in range(100)}
    plain["participation"] = {f"s{n:03}": ["took part"] * 60 for n in range(100)}
    text = report_page([typed(plain)])
    assert len(text) < 600_000
    assert "the 40 of 100 sites that gain least" in text
    assert "60 sites that missed no more than these are not drawn." in text


def test_several_runs_are_compared() -> None:
    other = run_results(5)
    other["final"]["tasks"]["grade"]["accuracy"] = 0.71875
    text = report_page([typed(run_results()), typed(other)])
    page = Page(text)
    assert page.open == []
    assert {0.609375, 0.71875} <= set(page.values)
    assert text.count('<details class="run">') == 2
    assert "made-up (2)" in text


def test_the_table_of_sites_says_which_network_each_has(tmp_path: Path) -> None:
    plain = run_results()
    for name, site in plain["sites"].items():
        site["model"] = "edge" if name == "north" else "big"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(plain))
    write_report([folder], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<tr><td>north</td><td>grade</td><td>edge</td>" in text
    write_report([write_run(tmp_path / "one")], tmp_path / "one.html")
    assert "<th>model</th>" not in (tmp_path / "one.html").read_text()


def test_a_report_is_written_whole_and_for_its_owner(tmp_path: Path) -> None:
    page = tmp_path / "pages" / "page.html"
    write_report([write_run(tmp_path / "run")], page)
    assert page.read_text().rstrip().endswith("</html>")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


def test_a_page_that_cannot_be_written_or_is_of_too_many_runs_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: "):
        write_report([run], tmp_path / "file" / "page.html")
    with pytest.raises(UserError, match=f"a report is of 1 to {MOST_RUNS} runs, and these are 25"):
        write_report([run] * 25, tmp_path / "page.html")


def test_a_browser_shows_it_without_an_error_and_asks_for_nothing(tmp_path: Path) -> None:
    plain = run_results()
    path = tmp_path / "run" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(plain))
    write_report([path], tmp_path / "page.html")
    seen = seen_by_chromium(f"file://{tmp_path}/page.html", tmp_path / "profile")
    assert seen.messages == []
    assert [url for url in seen.asked if not url.endswith("/page.html")] == []
    # As the browser understands the page: the same figures, and no element out of a name.
    assert {0.609375, 6.25, 0.84375} <= set(Page(seen.html).values)
    assert "script" not in Page(seen.html).tags
