"""Answers of a cohort: a report of each of its sites, and the layers of each scope as one sum."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import make_message

from fedstrata.protocol.answers import AnyReport, to_json
from fedstrata.protocol.kinds import LAYERS, REPORT, payload_array
from fedstrata.protocol.limits import Refused


def cohort_answer(
    message: Message,
    reports: Sequence[AnyReport],
    layers: Mapping[str, bytes],
) -> Message:
    """Return a cohort's answer: a report of each site, and the payload of each scope's sum."""
    content = RecordDict(
        {
            REPORT: ConfigRecord({"json": [to_json(report) for report in reports]}),
            LAYERS: ArrayRecord({scope: payload_array(data) for scope, data in layers.items()}),
        }
    )
    return Message(content, reply_to=message)


def split_cohort_answer(message: Message, most: int) -> list[Message]:
    """Return a cohort's answer as one message per report, without layers; empty for a site's.

    Raises
    ------
    Refused
        It has more than ``most`` reports.
    """
    try:
        texts = message.content[REPORT]["json"]
    except (KeyError, TypeError):
        return []
    if not isinstance(texts, list):
        return []
    if not 0 < len(texts) <= most:
        raise Refused(f"answers for {len(texts)} sites, at most {most} are taken (cohort.sites)")
    return [
        make_message(
            metadata=message.metadata,
            content=RecordDict({REPORT: ConfigRecord({"json": text})}),
        )
        for text in texts
    ]


def reporting_site(message: Message) -> str:
    """Return the site that a report is of, by its own words; raise Refused if it names none."""
    try:
        site = json.loads(str(message.content[REPORT]["json"]))["site"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refused(f"{REPORT!r} cannot be read: {error}") from None
    return str(site)
