"""`fedstrata site`: checks of its settings and of its health, which start nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedstrata.cli.site import main

ROOT = Path(__file__).resolve().parents[3]


def exit_status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_the_health_check_ends_with_0_or_1(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    assert exit_status("--is-alive", str(path)) == 1
    path.touch()
    assert exit_status("--is-alive", str(path)) == 0
    old = time.time() - 31
    os.utime(path, (old, old))
    assert exit_status("--is-alive", str(path)) == 1


def test_the_health_check_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fedstrata.cli.main import main\n"
        f"try: main(['site', '--is-alive', {str(tmp_path)!r}])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "assert not {'flwr', 'torch', 'grpc', 'msgspec'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_settings_can_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "docs.yaml"
    path.write_text((ROOT / "docs" / "site.yaml").read_text().replace("/srv/", f"{tmp_path}/"))
    missing = str(exit_status("--settings", str(path), "--insecure", "--check"))
    assert missing.startswith(f"{path}: data: {tmp_path}/pictures does not exist")
    (tmp_path / "pictures" / "women").mkdir(parents=True)
    main(["--settings", str(path), "--insecure", "--check"])
    said = f"{path}: site hospital-a, task gender, data opens, nothing wrong\n"
    assert capsys.readouterr().out == said
    path.write_text(path.read_text().replace("[common, task]", "[common, means]"))
    main(["--settings", str(path), "--insecure", "--check"])
    assert "shares means (method dbe): once, before round 1" in capsys.readouterr().out
    wrong = tmp_path / "site.yaml"
    wrong.write_text("site: a")
    found = exit_status("--settings", str(wrong), "--insecure", "--check")
    assert str(found).startswith(f"{wrong}: ")
