"""Plans of the experiments in conf/, and requests of runs that have them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fedstrata.protocol.plan import Plan
from server_app.compose import compose
from site_guard.approvals import Request, request_of
from strategies.config import plan_for

ASKED = datetime(2026, 11, 30, 12, tzinfo=UTC)


def plan_of(experiment: str, *overrides: str, federation: str = "march-1234") -> Plan:
    """Return the plan of an experiment."""
    return plan_for(compose(experiment, overrides), federation=federation, weights="")


def request(plan: Plan, bundle: bytes = b"bundle", **changes: Any) -> Request:
    """Return the request of a run with this plan and bundle."""
    given = {"run": 17, "signer": "", "asked": ASKED, **changes}
    return request_of(plan_json=plan.to_json(), plan=plan, bundle=bundle, **given)
