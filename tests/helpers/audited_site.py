"""A site of a loopback run behind the guard's own answer filter and audit log, without a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.common.typing import Fab, Run

from fedstrata.protocol import kinds
from fedstrata.support.audit import AuditLog
from site_guard.answers import AnswerFilter
from site_guard.audit import SiteAudit
from site_guard.keys import make_keys
from site_guard.settings import Audit
from tests.helpers.tiny_app import Pushed, settings


@dataclass
class AuditedSite:
    """Passes the answers of one node on, as the site's process would."""

    folder: Path
    node: int
    site: str
    task: str
    lost: set[int] = field(default_factory=set)  # rounds whose update is lost on the way

    def __post_init__(self) -> None:
        make_keys(self.folder / "keys", self.site)
        rules = settings(
            self.folder,
            site=self.site,
            task=self.task,
            share=("common", "task"),
            audit=Audit(key=str(self.folder / "keys" / "audit.key")),
        )
        self.filter, self.audit = AnswerFilter(rules), SiteAudit(rules)
        self.audit.started()

    @property
    def log(self) -> AuditLog:
        """The site's audit log."""
        return self.audit.log

    def __call__(self, order: Message, reply: Message) -> Message | None:
        """Return what leaves the site; of another node, the reply as it is."""
        if order.metadata.dst_node_id != self.node:
            return reply
        context = Context(1, self.node, {}, RecordDict(), {})
        work = Pushed(None, order, context, Run.create_empty(run_id=1), Fab("", b"app", {}))  # type: ignore[arg-type]
        self.audit.ordered(work)
        requested = self.filter.check_order(order)
        self.audit.send(work, self.filter.filter_answer(order, reply, requested))
        (answer,) = work.answers
        trained = order.metadata.message_type == kinds.TRAIN
        return None if trained and order.content["order"]["round"] in self.lost else answer
