"""The best state after the rounds: read back, measured at the sites, and said in the log."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.kinds import group_of
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.measure_words import WORDS, value_words
from fedstrata.protocol.orders import BEST
from fedstrata.support.errors import UserError
from server_app import measure_words
from server_app.choosing import best_of
from server_app.evaluation import measure_best
from server_app.rounds.dispatch import Ask, Dispatch
from server_app.rounds.downlink import Published
from server_app.rounds.records import RoundRecord
from server_app.rounds.state import ServerState
from server_app.run_folder import RunFolder, Saved
from strategies.config import ChooseConfig

logger = logging.getLogger("flwr")
States = Mapping[str, Mapping[str, Tensor]]


def measured_best(
    dispatch: Dispatch,
    folder: RunFolder,
    history: Sequence[Mapping[str, Any]],
    choose: ChooseConfig,
    final: Mapping[str, Any],
    keep: Sequence[str],
) -> dict[str, Any] | None:
    """Return ``best`` of results.json; None where no state could be judged.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites.
    folder : RunFolder
        Where the checkpoint of the best state is.
    history : sequence of mapping
        The records of the rounds.
    choose : ChooseConfig
        What is best.
    final : mapping
        ``final`` of results.json.
    keep : sequence of str
        Of which states the sites write their models.
    """
    every = dispatch.settings.checkpoint_every
    best = best_of(history, choose, final["sites"], saved_every=every)
    states: States | None = None
    if best is not None and best.round < len(history):
        try:
            states = sent_states(folder.saved(best.round), dispatch.state)
        except UserError as error:
            logger.error("the best state, after round %d, is lost: %s", best.round, error)
            return None
    if best is None:
        dispatch.log("no site measured a state on validation data: none is called the best")
        return None
    found = measure_best(
        dispatch, best, states, final, keep=BEST if BEST in keep and states is not None else ""
    )
    dispatch.log(best_line(found, final, len(history)))
    if BEST in keep and states is None:
        _call_last_best(dispatch, final["sites"])
    return found


def _call_last_best(dispatch: Dispatch, sites: Collection[str]) -> None:
    """Let the sites that wrote their last model have it as their best one, too."""
    record = RoundRecord(0)
    ask = Ask(kinds.QUERY, 0, dispatch.settings.deadline, layers={}, keep=BEST)
    members = [dispatch.roster.members[site] for site in sorted(sites)]
    for member, reply in dispatch.ask_each(ask, members, record):
        try:
            report = answers.read_site_report(reply)
        except Refused as error:
            record.refused[member.site] = str(error)
            continue
        if report.error:
            record.refused[member.site] = report.error
    for site, why in sorted(record.missed.items()):
        dispatch.log(f"site {site} has no best model, which is its last one: {why}")


def sent_states(saved: Saved, state: ServerState) -> dict[str, dict[str, Tensor]]:
    """Return what the round after a checkpoint sent to the sites, by scope key.

    It is the state, or what coding makes of it where it travels as differences.
    """
    sent = {}
    for key, own in state.states.items():
        tensors = saved.states.get(key, {})
        if tensors.keys() != own.keys():
            raise UserError(f"the checkpoint of round {saved.round} has other layers in {key!r}")
        if state.downlink.remembers(group_of(key)):
            published = Published(dict(saved.published[key]))
            coding = state.codings.to_site(group_of(key), saved.round + 1)
            published.publish(coding, saved.round + 1, {name: tensors[name] for name in own})
            tensors = published.tensors
        sent[key] = {name: tensors[name] for name in own}
    return sent


def best_line(best: Mapping[str, Any], final: Mapping[str, Any], rounds: int) -> str:
    """Return which state is the best, and what it and the last one are worth on the test data."""
    metric, over = best["metric"], best["over"]
    word = WORDS.get(metric, metric)
    several = {site["kind"] for site in best["sites"].values()}
    row: Mapping[str, Any] = next(iter(best["sites"].values()), {}) if len(several) == 1 else {}
    value = value_words(row, metric, best["value"])
    text = (
        f"best on validation data ({word} {value}, {over} over {best['measured_sites']} sites): the "
        f"state after round {best['round']} of {rounds}"
    )
    if best["round"] == rounds:
        return f"{text}, which is the last"
    received = [measure_words.received_words(each["sites"]) for each in (best, final)]
    return f"{text}. On the test data: best {received[0] or '-'}; last {received[1] or '-'}"
