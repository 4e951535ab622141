"""Which of the networks that a run offers this site trains, as ``model`` in site.yaml says."""

from __future__ import annotations

from flwr.app import Message

from fedstrata.protocol.answers import SiteReport
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.offered_models import MODELS, own_model
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from site_guard.reports import plan_of
from site_guard.settings import SiteSettings


def own_plan(plan: Plan, settings: SiteSettings) -> Plan:
    """Return the plan with the site's own network; raise Refused where the run offers it none.

    The plan of a server may name one as the site's: that is of no account.
    """
    try:
        return plan.of_model(own_model(plan.models, plan.model, settings.model))
    except UserError as error:
        raise Refused(str(error)) from None


def require_own_model(order: Message, report: SiteReport, settings: SiteSettings) -> None:
    """Raise Refused where the app says that the site has another model than site.yaml says."""
    plan = plan_of(order)
    models = plan.get(MODELS) or {}
    own = settings.model if models and settings.model in models else ""
    if report.model != own:
        said = f"the model {report.model!r}" if report.model else "no model"
        raise Refused(f"the app says that the site has {said}, and it has {own or 'the only one'}")
