"""Which layers of a small network a method puts into which group."""

from models.groups import partition_tensors
from models.networks import build
from strategies.method import Method

CONFIGURED = {"pretrained": ["fc1", "bn1"], "common": ["..."], "task": ["head"]}


def groups_of(method: Method) -> dict[str, set[str]]:
    """Return the layers of each group that has any."""
    network = build("mlp_bn", input_shape=(6,), classes=2, head=[], hidden=[5, 4])
    partition = partition_tensors(
        network, method.groups(CONFIGURED, network), method.known_groups()
    )
    found: dict[str, set[str]] = {}
    for name, group in partition.group_of.items():
        found.setdefault(group, set()).add(name.partition(".")[0])
    return found
