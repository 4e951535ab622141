"""No order makes a site delete the only copy of its personal layers, and no damage passes for a state.

A server that goes back in its rounds finds them set aside, and is refused once too much is. Bits that
a disk lost, or that somebody changed, are noticed at the site and at the server: the round before is
used, and the log says so. Nobody but the user of a site, or of the server, may read what is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client_app import store as storing
from client_app.context import SiteContext
from client_app.orders import answer_order
from client_app.set_aside import MOST_REPEATED, MOST_SET_ASIDE
from client_app.store import DiskStore, LocalState
from fedstrata.protocol import kinds
from fedstrata.support import checksums, tensor_files
from fedstrata.support.errors import UserError
from server_app.run_folder import RunFolder
from tests.helpers.site_contexts import opened, order, payloads, plan_of

ROUNDS = 8
EARLIER = [1, 5, 6, 7]  # before the last round; of the first two there are no files any more


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Let files be made for everybody, as on a machine where nobody thought of it."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def site() -> SiteContext:
    """Return a site that has personal layers of several rounds."""
    context = opened(plan_of())
    for number in range(1, ROUNDS + 1):
        context.store.save(number, personal(number, context))
    return context


def personal(value: float, context: SiteContext) -> LocalState:
    names = context.partitioned.partition.kept_names()
    return LocalState({name: context.start[name] + value for name in names})


def contents(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.rglob("round-*.safetensors")}


@pytest.mark.parametrize("kind", [kinds.TRAIN, kinds.EVALUATE, kinds.ALONE, kinds.DEPLOY])
@pytest.mark.parametrize("number", EARLIER)
def test_no_order_of_an_earlier_round_deletes_personal_layers(
    site: SiteContext, kind: str, number: int
) -> None:
    before = contents(site.store.folder)
    assert len(before) == 3
    report, _ = answer_order(kind, site, order(number, payloads(site)))
    assert report.error == ""
    assert before <= contents(site.store.folder)


def test_before_they_were_set_aside_one_order_deleted_them_all(
    site: SiteContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(store: DiskStore, round_number: int) -> None:
        for number in store.rounds():
            if number > round_number:
                store.path(number).unlink()

    before = contents(site.store.folder)
    monkeypatch.setattr(storing.DiskStore, "_give_up", removed)
    answer_order(kinds.TRAIN, site, order(1, payloads(site)))
    assert not before & contents(site.store.folder)


DURABLE = st.lists(st.integers(0, 12), max_size=3)  # as the server says, truly or not


@given(st.lists(st.tuples(st.integers(1, 12), DURABLE, st.booleans()), min_size=1, max_size=40))
def test_no_series_of_orders_deletes_what_a_later_round_left(
    tmp_path_factory: pytest.TempPathFactory, orders: list[tuple[int, list[int], bool]]
) -> None:
    """Whenever a server goes back, what later rounds left stays somewhere, or the order is refused."""
    store = DiskStore(tmp_path_factory.mktemp("s"), "run-1", "clinic")
    for count, (number, durable, repeats) in enumerate(orders):
        aside = values_in(store.folder / "set-aside")
        later = [n for n in store.rounds() if n >= number]
        at_risk = {value for n in later for value in values_in(store.path(n))}
        before = values_in(store.folder)
        state = LocalState({"w": torch.tensor([float(number if repeats else 100 + count)])})
        refused = ""
        try:
            store.save(number, state, durable=durable)
        except UserError as error:
            refused = str(error)
        if refused:
            assert "are set aside" in refused
            assert len(list(store.folder.glob("set-aside/0*"))) == MOST_SET_ASIDE
            assert values_in(store.folder) == before
            continue
        after = values_in(store.folder)
        assert aside <= after
        if later != [number]:
            assert at_risk <= after
        assert len(store.rounds()) <= 3 + len(durable)
        assert len(list(store.folder.glob("set-aside/0*"))) <= MOST_SET_ASIDE
        assert len(list(store.folder.glob("set-aside/repeated/*"))) <= MOST_REPEATED


def values_in(place: Path) -> set[float]:
    """Return what the files of rounds in a folder, or in one file, have."""
    files = [place] if place.is_file() else place.rglob("round-*.safetensors")
    return {float(tensor_files.load(path, lambda _: True)[0]["tensor/w"][0]) for path in files}


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def test_a_flipped_bit_at_the_site_does_not_become_its_model(
    site: SiteContext, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped(site.store.path(ROUNDS), -3)
    state = site.store.before(ROUNDS + 1)
    assert state is not None
    expected = personal(ROUNDS - 1, site)
    assert all(torch.equal(state.tensors[name], t) for name, t in expected.tensors.items())
    assert f"personal layers of round {ROUNDS}: " in caplog.text
    report, _ = answer_order(kinds.TRAIN, site, order(ROUNDS + 1, payloads(site)))
    assert report.error == ""
    # Without the checksum the site would train on.
    flipped(site.store.path(ROUNDS - 1), -3)
    monkeypatch.setattr(checksums, "check", lambda path: None)
    state = site.store.before(ROUNDS)
    assert state is not None
    assert any(not torch.equal(state.tensors[name], t) for name, t in expected.tensors.items())


def test_a_flipped_bit_at_the_server_does_not_become_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "run")
    for number in (1, 2, 3):
        state = {"common": {"w": torch.full((1000,), float(number))}}
        folder.save(number, state, {}, [{"round": each} for each in range(1, number + 1)])
    flipped(folder.path / "checkpoints" / "round-000003" / "state.safetensors", -4000)
    saved = folder.latest()
    assert saved is not None
    assert saved.round == 2
    assert bool((saved.states["common"]["w"] == 2).all())
    assert "the run goes on after round 2" in caplog.text


def test_a_link_to_another_file_is_no_state(site: SiteContext) -> None:
    site.store.path(ROUNDS).unlink()
    site.store.path(ROUNDS).symlink_to("/etc/passwd")
    state = site.store.before(ROUNDS + 1)
    assert state is not None
    assert all(
        torch.equal(state.tensors[name], tensor)
        for name, tensor in personal(ROUNDS - 1, site).tensors.items()
    )


def test_nobody_else_may_read_what_a_site_keeps(site: SiteContext) -> None:
    for kind in (kinds.TRAIN, kinds.DEPLOY):
        report, _ = answer_order(kind, site, order(ROUNDS + 1, payloads(site)))
        assert report.error == ""
    answer_order(kinds.TRAIN, site, order(1, payloads(site)))
    assert site.store.deployed.exists()
    for folder in (site.node.state_dir, site.node.cache_dir):
        for path in (folder, *folder.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
