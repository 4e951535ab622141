"""Nobody's text is read as anything else: overrides read no secrets, names and errors drive no terminal.

An override of a run reaches neither environment variables nor files beyond conf/. What a site calls
its classes, or an error, is printed and written as plain text.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.answers import SiteReport, failure_report
from fedstrata.protocol.limits import Refused
from fedstrata.support.errors import UserError
from server_app import compose as composing
from server_app.compose import MOST_DEPTH, MOST_OVERRIDE, compose, expand
from server_app.run_folder import write_json
from server_app.tables import sites_table

SECRET = "hunter2"
HOSTILE = {
    "ANSI": "\x1b[2Jlow",
    "a title": "\x1b]0;x\x07",
    "a new line": "low\nINFO forged",
    "right to left": "\u202egnp.exe",
    "no width": "lo\u200bw",
    "C1": "\x9b2J",
    "a line separator": "low\u2028high",
    "NUL": "low\x00",
}
HARMLESS = ["[bold red]x[/]", ":warning:", "<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0"]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_KEY", SECRET)


def composed(override: str) -> str:
    """Return the whole configuration of a run with this override, as results.json has it."""
    return "".join(
        json.dumps(compose("faces", each).to_dict(), default=str) for each in expand([override])
    )


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a folder of configuration that reads the secret, as another user could write it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "evil.yaml").write_text("name: faces\nx: ${oc.env:SIGNING_KEY}\n")
    return tmp_path


RESOLVERS = [
    "+data.x=${oc.env:SIGNING_KEY}",
    "data.size=${oc.env:SIGNING_KEY}",
    "+data.x='${oc.env:SIGNING_KEY}'",
    "+data.x=[1,{a:${oc.env:SIGNING_KEY}}]",
    "+data.x=${oc.decode:${oc.env:SIGNING_KEY}}",
    "+data.${oc.env:SIGNING_KEY}=1",
    "method=${oc.env:SIGNING_KEY}",
    "+data.x=${data.size}",
]


@pytest.mark.parametrize("override", RESOLVERS)
def test_an_override_resolves_nothing(override: str) -> None:
    with pytest.raises(UserError, match=r"override ['\"].*\$\{\.\.\.\} is not resolved") as raised:
        composed(override)
    assert SECRET not in str(raised.value)


def test_without_the_check_an_override_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(composing, "_refuse_unsafe", lambda override: None)
    assert SECRET in composed("+data.x=${oc.env:SIGNING_KEY}")


def test_an_override_reads_no_other_folder_of_configuration(elsewhere: Path) -> None:
    with pytest.raises(UserError, match="Hydra's own options cannot be changed here"):
        expand([f"hydra.searchpath=[file://{elsewhere}]", "data=evil"])
    up = "../" * 20 + str(elsewhere).lstrip("/") + "/data/evil"
    for override in (f"data={up}", f"data='{up}'", f"+data@data.x={up}", f"+data@data.x=[{up}]"):
        with pytest.raises(UserError, match="does not exist; there are: faces"):
            composed(override)
    for override in (f"+{up}@data.x=evil", "hydra/job_logging=none", "data/../data=faces"):
        with pytest.raises(UserError, match="write key=value"):
            composed(override)


def test_without_the_check_a_file_anywhere_is_read(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composing, "_refuse_elsewhere", lambda override: None)
    assert SECRET in composed("data=" + "../" * 20 + str(elsewhere).lstrip("/") + "/data/evil")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("+a=" + "[" * 5000 + "]" * 5000, f"nested deeper than {MOST_DEPTH}"),
        ("+a=" + "{a:" * 50 + "1" + "}" * 50, f"nested deeper than {MOST_DEPTH}"),
        (".".join("a" * 500) + "=1", f"nested deeper than {MOST_DEPTH}"),
        ("seed=" + "1" * 15_000, "override 'seed=1+'"),
        ("seed=" + "1" * 10**6, f"at most {MOST_OVERRIDE} are read"),
        ("method=glob(*)", "overrides: "),
        ("data=null", "data 'null' does not exist"),
        ("data=", "data '' does not exist"),
        ("\x1b[2J=1", r"override '\?\[2J=1'"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_override(
    override: str, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as raised:
        composed(override)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


@given(st.text(max_size=40) | st.from_regex(r"[+~]{0,2}[a-z./@$\{\}\[\]:=,()*]{1,40}"))
def test_any_text_composes_or_is_refused(override: str) -> None:
    read = ""
    with suppress(UserError):
        read = composed(override)
    assert SECRET not in read


# -- what sites say --------------------------------------------------------------------------------

WHO = SiteReport(
    "north", "grade", ("low", "high"), (3, 8, 8), {"train": 9, "validation": 2, "test": 2},
    {"accuracy": 0.5}, {}, {}, True, "cpu", {"torch": "2.11"}, "",
)  # fmt: skip


def read(report: Any) -> SiteReport:
    """Return a site's report as the server reads it."""
    asked = orders.order(kinds.QUERY, 7, plan="{}", round_number=0, layers={}, ttl=60.0)
    return answers.read_site_report(answers.answer(asked, report, {}))


@pytest.mark.parametrize("what", HOSTILE)
def test_a_site_that_names_things_with_control_characters_does_not_join(what: str) -> None:
    text = HOSTILE[what]
    for changed in (
        {"classes": ("low", text)},
        {"device": text},
        {"versions": {"torch": text}},
        {"versions": {text: "1"}},
        {"task": text},
        {"site": text},
    ):
        with pytest.raises(Refused) as raised:
            read(replace(WHO, **changed))
        assert str(raised.value).isprintable()


@pytest.mark.parametrize("what", HOSTILE)
def test_an_error_is_printed_without_its_control_characters(what: str) -> None:
    report = read(failure_report(kinds.QUERY, "north", 0, HOSTILE[what]))
    assert report.error.isprintable()
    assert report.error


def test_names_are_printed_and_written_as_they_are(tmp_path: Path) -> None:
    report = read(replace(WHO, classes=tuple(HARMLESS[:2])))
    table = sites_table({"north": asdict(report)})
    assert "[bold red]x[/], :warning:" in table
    report = read(replace(WHO, classes=tuple(HARMLESS)))
    write_json(tmp_path / "results.json", asdict(report))
    written = (tmp_path / "results.json").read_text()
    assert written.isascii()
    assert json.loads(written)["classes"] == HARMLESS


@given(st.text())
def test_no_table_has_a_character_that_drives_a_terminal(name: str) -> None:
    try:
        report = read(replace(WHO, classes=("low", name)))
    except Refused:
        return
    table = sites_table({"north": asdict(report)})
    assert table.replace("\n", "").isprintable()
