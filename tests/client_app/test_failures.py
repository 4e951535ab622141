"""What of a failure may leave a site."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from client_app.context import checkpoint_path
from client_app.failures import logged_reason, public_reason, without_paths
from client_app.node_config import read_node_settings
from client_app.round import train_round
from client_app.store import LocalState
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError, private
from models.training.loop import Diverged
from tests.helpers.site_contexts import opened, received


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/x/Ann Lee/1.png: cannot be read", "a file in the data folder"),
        ("/srv/x/Ann: 'Lee'\n1961.png: cannot be read", "a file in the data folder"),
        ("data-root '/srv/x' does not exist", "data-root 'the data folder' does not exist"),
        ("/srv/x/b is a link that leaves /srv/x: put", "a file in the data folder"),
        ("put them into /srv/x/<class>/", "put them into a file in the data folder"),
        ("/srv/xy/1 is elsewhere", "/srv/xy/1 is elsewhere"),
        ("/srv/x/state/run-1/r.safetensors", "a file in the state folder"),
        ("no 'a' in /srv/x, nor /cache", "no 'a' in the data folder, nor the cache folder"),
    ],
)  # fmt: skip
def test_no_path_of_the_site_leaves_it(text: str, expected: str) -> None:
    folders = {"data-root": "/srv/x", "state-dir": "/srv/x/state", "cache-dir": "/cache"}
    assert without_paths(text, read_node_settings({"site": "clinic", **folders}, {})) == expected


def test_a_folder_is_recognized_behind_a_link_and_in_quotation_marks(tmp_path: Path) -> None:
    folder = tmp_path / "Ann's \"\ttab"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    site = read_node_settings({"site": "clinic", "data-root": str(tmp_path / "link")}, {})
    assert without_paths(f"{folder}/1.png: none", site) == "a file in the data folder"
    site = read_node_settings({"site": "clinic", "data-root": str(folder)}, {})
    assert without_paths(f"no {str(folder / '1.png')!r}", site) == "no 'a file in the data folder"


MISSING = UserError("no " + private("Ann Lee.png", "such file"))
LOST = FileNotFoundError(2, "No such file or directory", "/srv/x/Ann Lee.png")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MISSING, "no such file; see the site's log"),
        (UserError("data.size: 0"), "data.size: 0"),
        (UserError("/srv/x/Ann: damaged"), "a file in the data folder; see the site's log"),
        (LOST, "FileNotFoundError: No such file or directory, see the site's log"),
        (KeyError("Ann Lee"), "KeyError: see the site's log"),
        (Diverged("conv1 is not finite"), "Diverged: conv1 is not finite"),
    ],
)
def test_the_public_part_of_an_error_leaves_and_in_a_simulation_all(
    error: Exception, expected: str
) -> None:
    node = read_node_settings({"site": "clinic", "data-root": "/srv/x"}, {})
    assert public_reason(error, node, simulated=False) == expected
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    assert public_reason(error, node, simulated=True) == f"{kind}{error}"


def test_nothing_of_settings_that_cannot_be_read_leaves() -> None:
    error = UserError("data-root must be an absolute path, got 'srv/ann lee'")
    expected = "the site's settings are wrong; see the site's log"
    assert public_reason(error, None, simulated=False) == expected
    assert (
        public_reason(KeyError("Ann Lee"), None, simulated=False) == "KeyError: see the site's log"
    )


def test_the_log_has_a_failure_in_full(caplog: pytest.LogCaptureFixture) -> None:
    node = read_node_settings({"site": "clinic", "data-root": "/srv/x"}, {})
    reason = logged_reason(KeyError("Ann Lee"), "clinic", 3, node, simulated=False)
    assert reason == "KeyError: see the site's log"
    assert "site clinic: round 3 failed" in caplog.text
    assert "Ann Lee" in caplog.text
    logged_reason(MISSING, "", 3, None, simulated=False)
    assert "site (unnamed): no Ann Lee.png" in caplog.text


def test_damaged_files_are_reported_without_their_names(
    plan: Plan,
    tmp_path: Path,
) -> None:
    folders = {"state-dir": str(tmp_path / "Ann Lee"), "cache-dir": str(tmp_path / "1961")}
    context = opened(plan, **folders)
    context.store.save(1, LocalState({"a": torch.ones(1)}))
    context.store.path(1).write_bytes(b"damaged")
    path = checkpoint_path(context.node.cache_dir, plan.weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")

    def public_text(do: Callable[[], object]) -> str:
        with pytest.raises(UserError, match=r"\.safetensors is damaged") as raised:
            do()
        return raised.value.public

    read = "cannot be read"
    assert (
        public_text(lambda: context.store.before(2))
        == f"the personal layers on the site's disk {read}"
    )
    assert public_text(lambda: opened(plan, **folders)) == (
        f"the pre-trained checkpoint {read}: delete it, it will be sent again"
    )


def test_errors_leave_without_the_values_of_the_site(plan: Plan) -> None:
    with pytest.raises(UserError) as raised:
        opened(plan, device="ann-lee")
    assert raised.value.public == "device does not exist; use auto, cpu, cuda or cuda:N"
    context = opened(plan)
    context.store.save(1, LocalState({"Ann Lee": torch.ones(1)}))
    with pytest.raises(UserError, match="Ann Lee") as raised:
        train_round(context, 2, received(context), context.store)
    assert raised.value.public == (
        "the personal layers kept do not fit the model of this run: they differ; start a new run "
        "instead of resuming this one"
    )
