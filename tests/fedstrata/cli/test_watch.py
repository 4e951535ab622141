"""`fedstrata watch`: says where the page is, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrata.cli import watch
from fedstrata.watch.server import Server
from tests.helpers.run_results import write_run


def test_the_address_is_printed_and_ctrl_c_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    (write_run(tmp_path / "one") / "run.json").write_text("{}")
    watch.main(["--runs-in", str(tmp_path), "--port", "0"])
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^fedstrata watch: .*there is no run"):
        watch.main(["one", "--runs-in", str(tmp_path)])
