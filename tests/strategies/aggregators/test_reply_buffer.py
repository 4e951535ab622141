"""ReplyBuffer beyond a memory limit: on disk, with the same results, and gone afterwards."""

import errno
import os

import numpy as np
import pytest
import torch

from fedstrata.support.errors import UserError
from strategies.aggregators import make_aggregator
from strategies.aggregators.blocks import BLOCK, on_all_cores
from strategies.aggregators.reply_buffer import ReplyBuffer
from tests.helpers.aggregation import (
    DEFAULTS,
    assert_same_bits,
    draw_round,
    run_round,
)

SHAPES = {"w": (3, 7001), "b": (5,), "scale": (), "none": (0, 3)}
MEGABYTE = 10**6
ROBUST = [
    ("median", {}),
    ("trimmed_mean", {"beta": 0.3}),
    ("krum", {"num_malicious": 1}),
    ("krum", {"num_malicious": 1, "num_to_keep": 3}),
]
NOTHING, TWO_OF_SIX = 1e-6, 0.25  # megabytes: a reply has 0.084


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def build(name, options, memory_mb):
    return make_aggregator(name, DEFAULTS[name] | options | {"memory_mb": memory_mb})


@pytest.mark.parametrize(("name", "options"), ROBUST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_replies_on_disk_give_the_bits_of_replies_in_memory(name, options, dtype, own_home):
    given = draw_round(6, shapes=SHAPES, dtype=dtype)
    whole = run_round(build(name, options, 100.0), *given)
    assert not (own_home / "spool").exists()
    for memory_mb in (NOTHING, TWO_OF_SIX):
        assert_same_bits(run_round(build(name, options, memory_mb), *given), whole)
    assert list((own_home / "spool").iterdir()) == []  # the file has no name


def test_the_rules_are_what_numpy_computes_of_all_replies_at_once():
    current, updates, examples = draw_round(7, shapes=SHAPES)
    median = run_round(build("median", {}, TWO_OF_SIX), current, updates, examples)
    trimmed = run_round(
        build("trimmed_mean", {"beta": 0.3}, TWO_OF_SIX), current, updates, examples
    )
    for name in current:
        rows = np.stack([update[name].numpy() for update in updates.values()]).astype(np.float64)
        np.testing.assert_allclose(median[name].numpy(), np.median(rows, axis=0), rtol=1e-6)
        middle = np.sort(rows, axis=0)[2:5].mean(axis=0)
        np.testing.assert_allclose(trimmed[name].numpy(), middle, rtol=1e-6, atol=1e-7)


def test_memory_stays_within_the_limit(two_threads):
    update = {"w": torch.zeros(500_000)}
    replies = ReplyBuffer(update, limit=40 * MEGABYTE)
    for number in range(20):
        replies.add(str(number), update)
    assert replies.on_disk == 5
    taken = []
    replies.reduced(replies.sites, lambda rows: (taken.append(rows.base.nbytes), rows[0])[1])
    assert 15 * update["w"].nbytes + 2 * max(taken) <= 40 * MEGABYTE
    replies.close()


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_number_of_threads_changes_no_bit(name, two_threads):
    given = draw_round(5, shapes={"w": (3, 3 * BLOCK + 5), "b": (4,)})
    two = run_round(make_aggregator(name, DEFAULTS[name]), *given)
    torch.set_num_threads(1)
    assert_same_bits(run_round(make_aggregator(name, DEFAULTS[name]), *given), two)


def test_an_error_in_any_thread_is_raised(two_threads):
    def work(blocks):
        for name, span in blocks:
            if span.start:
                raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError, match="w"):
        on_all_cores({"w": 10 * BLOCK}, BLOCK, work)


def test_a_forked_process_has_threads_of_its_own(two_threads):
    def work(blocks):
        for _ in blocks:
            pass

    on_all_cores({"w": 10 * BLOCK}, BLOCK, work)
    child = os.fork()
    if not child:
        on_all_cores({"w": 10 * BLOCK}, BLOCK, work)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_full_disk_is_told_and_leaves_the_replies_as_they_were(monkeypatch):
    current, updates, examples = draw_round(4, shapes=SHAPES)
    aggregator = build("median", {}, NOTHING)
    aggregator.begin(current, examples)
    sites = list(updates)
    for site in sites[:-1]:
        aggregator.add(site, updates[site], examples[site])
    with monkeypatch.context() as broken:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        broken.setattr(os, "pwritev", full)
        with pytest.raises(UserError, match="memory_mb"):
            aggregator.add(sites[-1], updates[sites[-1]], examples[sites[-1]])
    rest = {site: updates[site] for site in sites[:-1]}
    assert_same_bits(
        aggregator.finish(), run_round(build("median", {}, 9.0), current, rest, examples)
    )


def test_memory_must_be_some():
    with pytest.raises(UserError, match=r"memory_mb must be greater than 0"):
        build("median", {}, 0.0)
