"""Which of the networks that a run offers is this site's own: the site decides, never the server."""

from __future__ import annotations

from client_app.node_config import NodeSettings
from fedstrata.protocol.offered_models import MODELS, own_model, simulated_model
from fedstrata.protocol.plan import Plan


def own_plan(node: NodeSettings, plan: Plan, site: str) -> Plan:
    """Return the plan as a site works by it: ``model`` is its own, and ``own`` its name.

    Of a run with one network it is the plan itself. It is the same for a plan that it returned.

    Parameters
    ----------
    node : NodeSettings
        The site's settings, which may name its model; a simulated site has the next one in turn.
    plan : Plan
        The run's.
    site : str
        The site's name.

    Raises
    ------
    UserError
        Where the site names a model that the run does not offer, or none of several.
    """
    if plan.models and node.simulated and node.model is None and node.index is not None:
        assigned = plan.data.get(MODELS)
        return plan.of_model(simulated_model(plan.models, assigned, node.index, site))
    return plan.of_model(own_model(plan.models, plan.model, node.model))
