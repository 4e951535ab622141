"""How many orders a site took today: kept on disk, so that a restart begins no new day."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import msgspec

from fedstrata.protocol.limits import NotNow, Refused
from site_guard.plan_rules import PlanRules
from site_guard.private_files import make_folder, write_private

logger = logging.getLogger("flwr")


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was taken on one day, in the machine's local time."""

    day: str
    orders: int = 0
    rounds: int = 0


@dataclass
class DayCounts:
    """The counts of a site, of all runs together.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    rules : PlanRules
        How many a day may have.
    today : callable
        Returns the day in local time.
    """

    path: Path
    rules: PlanRules
    today: Callable[[], date] = date.today

    def take(self, *, trains: bool) -> None:
        """Count one order more.

        Raises
        ------
        NotNow
            The day has as many as it may have; the order is not counted.
        Refused
            The file cannot be read, so nobody knows.
        """
        counts = self._read()
        for what, number, most in (
            ("orders", counts.orders, self.rules.max_orders_per_day),
            ("rounds", counts.rounds, self.rules.max_rounds_per_day if trains else None),
        ):
            if most is not None and number >= most:
                raise NotNow(
                    f"{number} {what} were taken today, and this site's rule is "
                    f"`plan: max-{what}-per-day`: {most}; it goes on tomorrow"
                )
        changed = Counts(counts.day, counts.orders + 1, counts.rounds + trains)
        make_folder(self.path.parent)
        write_private(self.path, msgspec.json.encode(changed))

    def _read(self) -> Counts:
        """Return today's counts; those of another day are over."""
        today = self.today().isoformat()
        try:
            counts = msgspec.json.decode(self.path.read_bytes(), type=Counts)
        except FileNotFoundError:
            return Counts(today)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            logger.error("%s cannot be read (%s): remove it to count anew", self.path, error)
            raise Refused(
                "how many orders were taken today is unknown: see the site's log"
            ) from None
        return counts if counts.day == today else Counts(today)
