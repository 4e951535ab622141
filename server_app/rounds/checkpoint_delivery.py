"""Sending the pre-trained checkpoint to the sites that lack it, once, checked by its hash there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.payload import encode
from models.weights import Checkpoint
from server_app.rounds.dispatch import Ask, Dispatch
from server_app.rounds.records import RoundRecord
from server_app.sites.checkpoint_holders import CheckpointHolders
from server_app.sites.members import Member
from server_app.tables import MEGABYTE


@dataclass
class CheckpointDelivery:
    """Gives sites the pre-trained checkpoint.

    Parameters
    ----------
    dispatch : Dispatch
        The way to the sites.
    holders : CheckpointHolders
        Who may lack it.
    checkpoints : mapping of str to Checkpoint
        What each model starts from, "" being the only network of a run; empty where it starts from
        nothing.
    """

    dispatch: Dispatch
    holders: CheckpointHolders
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)

    def deliver(self, sites: Collection[str], refused: Collection[str]) -> bool:
        """Send the checkpoint to those of ``sites`` that are there and lack it.

        Who does not take it is asked again before the next round. So is who ``refused`` the last
        round, whatever it said before: its cache may have been emptied.

        Returns
        -------
        bool
            Whether any were asked, which takes a while.
        """
        if not self.checkpoints:
            return False
        roster = self.dispatch.roster
        connected = roster.connected()
        wanted = (self.holders.lacking | set(refused)) & set(sites)
        asked = [
            member
            for member in roster.everyone.values()
            if member.node_id in connected and member.site in wanted
        ]
        lacking = self._lacking(asked, refused)
        for model, checkpoint in self.checkpoints.items():
            self._send(checkpoint, [each for each in lacking if each.report.model == model])
        return bool(asked)

    def _lacking(self, members: list[Member], refused: Collection[str]) -> list[Member]:
        """Return which of these sites do not have the checkpoint on their disk.

        Their known states are noted too, but not of ``refused``: these could not use them.
        """
        record = RoundRecord(0)
        lacking = []
        ask = Ask(kinds.QUERY, 0, self.dispatch.settings.deadline, layers={})
        for member, reply in self.dispatch.ask_each(ask, members, record):
            try:
                report = answers.read_site_report(reply)
            except Refused as error:
                record.refused[member.site] = str(error)
                continue
            if report.error:
                record.refused[member.site] = report.error
            elif report.holds_weights:
                self.holders.has_it(member.site)
            else:
                lacking.append(member)
            if member.site not in refused:
                self.dispatch.state.downlink.note_known(member.site, report.known_states)
        self._note_missed(record, "does not say whether it has the checkpoint")
        return lacking

    def _send(self, checkpoint: Checkpoint, members: list[Member]) -> None:
        if not members:
            return
        array = kinds.payload_array(encode(checkpoint.tensors, checkpoint.texts))
        self.dispatch.log(
            f"sending the pre-trained checkpoint ({len(array.data) / MEGABYTE:.1f} MB) to "
            f"{len(members)} sites"
        )
        record = RoundRecord(0)
        deadline = self.dispatch.settings.deadline
        ask = Ask(kinds.WEIGHTS, 0, deadline, layers={"pretrained": array})
        for member, reply in self.dispatch.ask_each(ask, members, record):
            try:
                report = answers.read_site_report(reply)
            except Refused as error:
                record.refused[member.site] = str(error)
                continue
            if report.error or not report.holds_weights:
                record.refused[member.site] = report.error or "did not keep the checkpoint"
                continue
            self.holders.has_it(member.site)
            self.dispatch.state.downlink.note_known(member.site, report.known_states)
        self._note_missed(record, "did not take the checkpoint")

    def _note_missed(self, record: RoundRecord, what: str) -> None:
        self.holders.silent |= record.late.keys()
        for site, reason in record.missed.items():
            self.dispatch.log(f"site {site} {what}: {reason}")
