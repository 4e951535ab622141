"""The frozen prefix: where a Sequential can be cut so that its first part need run only once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor, nn

from fedstrata.protocol.tensors import content_hash
from models.groups import Partition

# Without tensors, and yet no plain function of their input in train mode.
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


class Copy(nn.Module):
    """Return a copy of the input: what follows may work in-place on it."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a copy of ``inputs``, any shape and dtype."""
        return inputs.clone()


def sequential_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules that run one after the other, with their dotted paths.

    The children of ``model`` are taken to run in order. Nested `nn.Sequential` are expanded
    (subclasses too, unless they have a forward of their own); anything else, a residual block for
    instance, is one step.
    """
    return [step for name, child in _children(model) for step in _expand(name, child)]


def frozen_cut(model: nn.Module, partition: Partition) -> int:
    """Return how many leading steps give the same output for an example in every round.

    These are the steps up to the last one before the first trained tensor, if they hold any
    tensor at all, and the steps without tensors that follow (ReLU, pooling, flatten). Dropout
    between frozen layers belongs to the prefix, which runs in eval mode; Dropout after the last
    frozen layer regularises what is trained, and ends the prefix.
    """
    groups = partition.groups
    frozen = {name for name, group in partition.group_of.items() if not groups[group].trained}
    cut = 0
    for index, (path, module) in enumerate(sequential_modules(model), start=1):
        names = [f"{path}.{name}" for name in module.state_dict()]
        if not frozen.issuperset(names) or _mixes_examples(module):
            break
        directly_after = cut > 0 and cut == index - 1
        if names or (directly_after and not _is_random(module)):
            cut = index
    return cut


def split_at(model: nn.Sequential, cut: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the first ``cut`` steps and the others, such that ``tail(prefix(x)) == model(x)``.

    Both share their modules with ``model`` and keep its tensor names. The prefix is put in eval
    mode, its modules in ``model`` with it. Where the tail would start in-place it starts with a
    `Copy`, so that outputs of the prefix can be kept and used again.

    Raises
    ------
    ValueError
        Unless ``0 <= cut <= len(sequential_modules(model))``.
    """
    parts = sequential_modules(model)
    if not 0 <= cut <= len(parts):
        raise ValueError(f"cannot cut {len(parts)} steps after {cut}")
    first, rest = parts[:cut], parts[cut:]
    if _may_overwrite_input(rest):
        rest = [("input_copy", Copy()), *rest]
    return _chain(first).eval(), _chain(rest)


def prefix_digest(model: nn.Sequential, cut: int) -> str:
    """Return the hex SHA-256 of the first ``cut`` steps: their paths, settings and tensors."""
    parts = sequential_modules(model)[:cut]
    told = repr([(path, repr(module)) for path, module in parts])
    tensors = content_hash(_chain(parts).state_dict())
    return hashlib.sha256(f"{told}\n{tensors}".encode()).hexdigest()


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return all children; unlike ``named_children()`` also one that occurs a second time."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _expand(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    if type(module).forward is not nn.Sequential.forward:
        return [(path, module)]
    return [s for name, child in _children(module) for s in _expand(f"{path}.{name}", child)]


def _chain(parts: Sequence[tuple[str, nn.Module]]) -> nn.Sequential:
    """Build nested Sequentials, in which each module has its dotted path again."""
    root = nn.Sequential()
    for path, module in parts:
        parent: nn.Module = root
        *above, leaf = path.split(".")
        for name in above:
            if name not in parent._modules:
                parent.add_module(name, nn.Sequential())
            parent = parent.get_submodule(name)
        parent.add_module(leaf, module)
    return root


def _may_overwrite_input(parts: Sequence[tuple[str, nn.Module]]) -> bool:
    """Whether a step up to the first one with tensors has anything in-place."""
    for _, module in parts:
        if any(getattr(part, "inplace", False) for part in module.modules()):
            return True
        if module.state_dict():
            return False
    return False


def _is_random(module: nn.Module) -> bool:
    return any(isinstance(part, RANDOM) for part in module.modules())


def _mixes_examples(module: nn.Module) -> bool:
    """Whether the output for one example depends on the rest of its batch, even in eval mode."""
    norms = (part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))
    return any(norm.running_mean is None for norm in norms)


def freeze(model: nn.Module, partition: Partition) -> None:
    """Let gradients reach the parameters of trained groups only."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(partition.groups[partition.group_of[name]].trained)


def set_train_mode(model: nn.Module, partition: Partition) -> None:
    """Put ``model`` in train mode, except what is frozen, which stays in eval mode.

    Frozen are the steps of the frozen prefix as a whole (Dropout between frozen layers included)
    and, anywhere else, each module that owns a tensor of a group nobody trains: a frozen
    BatchNorm must neither use nor update batch statistics.
    """
    model.train()
    for _, step in sequential_modules(model)[: frozen_cut(model, partition)]:
        step.eval()
    for name, group in partition.group_of.items():
        if not partition.groups[group].trained:
            _mark_eval(model, name.rpartition(".")[0])


def _mark_eval(model: nn.Module, path: str) -> None:
    """Put the one module at ``path`` in eval mode, where ``model`` (perhaps a tail) has it."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return
    module.training = False
