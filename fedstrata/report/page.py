"""The report of one or several runs: one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from fedstrata.protocol.limits import printable
from fedstrata.protocol.measure_words import BASELINES, WORDS, gain_text, value_text
from fedstrata.report import (
    class_charts,
    cross_site_chart,
    curves,
    facts,
    participation_chart,
    partition_chart,
    site_chart,
    traffic_chart,
)
from fedstrata.report.amounts import bytes_text, count_text, seconds_text, several
from fedstrata.report.elements import Drawing, legend
from fedstrata.runs import options
from fedstrata.runs.results import CrossSiteTask, Measured, Results, Tuned

TEMPLATES = Path(__file__).parent / "templates"
MOST_RUNS = 24


def report_page(runs: Sequence[Results]) -> str:
    """Return the page of one run, or the comparison of several."""
    named = list(zip(facts.labels(runs), runs, strict=True))
    template = environment().get_template("report.html")
    return template.render(
        title=named[0][0] if len(named) == 1 else f"{len(named)} runs compared",
        style=Markup((TEMPLATES / "style.css").read_text()),
        runs=[{"name": name, "results": results} for name, results in named],
        named=named,
    )


def html_environment(templates: Path) -> jinja2.Environment:
    """Return an environment for pages: every text is escaped, and a missing name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        bytes=bytes_text, count=count_text, seconds=seconds_text, measure=measure, gain=gain
    )
    made.globals.update(legend=legend, several=several)
    return made


@cache
def environment() -> jinja2.Environment:
    """Return the environment of the report's templates."""
    made = html_environment(TEMPLATES)
    made.globals.update(
        facts=facts,
        options=options,
        curves=curves,
        site_chart=site_chart,
        partition_chart=partition_chart,
        participation=participation_chart,
        traffic=traffic_chart,
        class_charts=class_charts,
        cross_site=cross_site_chart,
        state_legend=state_legend,
        share=share,
        words=WORDS,
        cross_value=cross_value,
        guesses=BASELINES,
        task_sites=task_sites,
    )
    return made


def task_sites(sites: Mapping[str, Measured], task: str) -> dict[str, Measured]:
    """Return the sites of a task."""
    return {name: site for name, site in sorted(sites.items()) if site.task == task}


def measure(row: Measured | Tuned, value: float | None) -> Markup:
    """Return a value of a row's leading measure; the machine-readable one is exact."""
    return _data(value, value_text(row.measures.leading, value, row.unit))


def cross_value(task: CrossSiteTask, row: Measured | None) -> Markup:
    """Return the leading measure of a pair of a cross-site table; the machine-readable one is exact."""
    leading = task.measures.leading
    value = None if row is None else row.of(leading)
    return _data(value, value_text(leading, value, task.unit))


def gain(row: Measured | Tuned, value: float | None) -> Markup:
    """Return a gain in a row's leading measure, marked as good or bad."""
    text = _data(value, gain_text(row.kind, value, row.unit))
    css = "" if value is None or value == 0 else "better" if value > 0 else "worse"
    return Markup('<span class="{}">{}</span>').format(css, text)


def share(value: float | None) -> Markup:
    """Return a number between 0 and 1."""
    return _data(value, "" if value is None else f"{value:.3f}")


def state_legend(states: Sequence[str]) -> Markup:
    """Return the legend of the participation."""
    items = Markup()
    for state in states:
        drawn = Drawing(participation_chart.ROW, state, width=participation_chart.ROW)
        drawn.root.set("class", "swatch")
        participation_chart.cell(drawn, state, 0, 0, participation_chart.ROW)
        items += Markup("<li>{} {}</li>").format(drawn.markup(), state)
    return Markup('<ul class="legend">{}</ul>').format(items)


def _data(value: float | None, text: str) -> Markup:
    if value is None:
        return Markup("<span>-</span>")
    return Markup('<data value="{}">{}</data>').format(repr(value), text)


def _printable(value: object) -> object:
    return value if not isinstance(value, str) or isinstance(value, Markup) else printable(value)
