"""The frozen layers: their modes, and the frozen prefix, whose outputs can be computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor, nn

from fedstrata.protocol.tensors import content_hash
from models.groups import Partition

# These have no tensors, and yet draw random numbers in train mode: a prefix must not end with them.
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


class Copy(nn.Module):
    """Returns a copy of the input, so that the next module may work in-place on it."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a copy of ``inputs``, any shape and dtype."""
        return inputs.clone()


def sequential_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules that run one after the other, with their dotted paths: the steps.

    The children of ``model`` are assumed to run in order. A nested `nn.Sequential` is expanded,
    a subclass too unless it has its own ``forward``. Anything else is one step, such as a
    residual block.
    """
    return [step for name, child in _children(model) for step in _expand(name, child)]


def frozen_cut(model: nn.Module, partition: Partition) -> int:
    """Return how many leading steps give the same output for an example in every round.

    The prefix ends before the first step with a trained tensor. It needs at least one step with
    tensors. The steps without tensors that follow belong to it: ReLU, pooling, flatten. Dropout
    between frozen layers belongs to it too, and does nothing, for the prefix runs in eval mode.
    Dropout after the last frozen layer regularizes what is trained, and ends the prefix.
    """
    groups = partition.groups
    frozen = {name for name, group in partition.group_of.items() if not groups[group].trained}
    cut = 0
    for index, (path, module) in enumerate(sequential_modules(model), start=1):
        names = [f"{path}.{name}" for name in module.state_dict()]
        if not frozen.issuperset(names) or _mixes_examples(module):
            break
        # A frozen layer takes the Dropout before it along; Dropout alone never moves the cut.
        directly_after = cut > 0 and cut == index - 1
        if names or (directly_after and not _is_random(module)):
            cut = index
    return cut


def split_at(model: nn.Sequential, cut: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the first ``cut`` steps and the others, such that ``tail(prefix(x)) == model(x)``.

    Both share their modules with ``model`` and have its tensor names. The prefix is put in eval
    mode, and so are these modules of ``model``. A tail that would work in-place on its input
    starts with a `Copy`, so that outputs of the prefix can be cached and used again.

    Raises
    ------
    ValueError
        Unless ``0 <= cut <= len(sequential_modules(model))``.
    """
    prefix, tail = _cut(sequential_modules(model), cut)
    return prefix.eval(), tail


def split_before(model: nn.Sequential, path: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Return what runs before the module at ``path``, and it with all that follows.

    ``out(body(x)) == model(x)``. Both share their modules with ``model``, whose modes stay as they
    are. An ``out`` that would work in-place on its input starts with a `Copy`.

    Raises
    ------
    ValueError
        Where no step of ``model`` has that path.
    """
    parts = sequential_modules(model)
    for index, (step, _) in enumerate(parts):
        if step == path or step.startswith(f"{path}."):
            return _cut(parts, index)
    raise ValueError(f"no step {path!r}; there are {', '.join(step for step, _ in parts)}")


def _cut(parts: Sequence[tuple[str, nn.Module]], cut: int) -> tuple[nn.Sequential, nn.Sequential]:
    if not 0 <= cut <= len(parts):
        raise ValueError(f"cannot cut {len(parts)} steps after {cut}")
    first, rest = parts[:cut], parts[cut:]
    if _may_overwrite_input(rest):
        rest = [("input_copy", Copy()), *rest]
    return _chain(first), _chain(rest)


def prefix_digest(model: nn.Sequential, cut: int) -> str:
    """Return the hex SHA-256 of the first ``cut`` steps: their paths, settings and tensors."""
    parts = sequential_modules(model)[:cut]
    # The repr has what no tensor shows: strides, paddings, the slope of an activation.
    settings = repr([(path, repr(module)) for path, module in parts])
    tensors = content_hash(_chain(parts).state_dict())
    return hashlib.sha256(f"{settings}\n{tensors}".encode()).hexdigest()


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return all children, unlike ``named_children()``, which leaves out a repeated module."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _expand(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    if type(module).forward is not nn.Sequential.forward:
        return [(path, module)]
    return [s for name, child in _children(module) for s in _expand(f"{path}.{name}", child)]


def _chain(parts: Sequence[tuple[str, nn.Module]]) -> nn.Sequential:
    """Return nested Sequentials in which each module has its old dotted path."""
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
    """Return whether an in-place module comes before the first step with tensors."""
    for _, module in parts:
        if any(getattr(part, "inplace", False) for part in module.modules()):
            return True
        if module.state_dict():
            return False  # convolutions and linear layers give a new tensor
    return False


def _is_random(module: nn.Module) -> bool:
    return any(isinstance(part, RANDOM) for part in module.modules())


def _mixes_examples(module: nn.Module) -> bool:
    """Return whether an output depends on the rest of the batch, even in eval mode.

    BatchNorm without running statistics normalizes by those of the batch in either mode.
    """
    norms = (part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))
    return any(norm.running_mean is None for norm in norms)


def trained_norms(model: nn.Module, partition: Partition) -> list[str]:
    """Return the BatchNorms that normalize by the batch in training: those that are not frozen."""
    frozen = {
        name.rpartition(".")[0]
        for name, group in partition.group_of.items()
        if not partition.groups[group].trained
    }
    for path, step in sequential_modules(model)[: frozen_cut(model, partition)]:
        frozen |= {f"{path}.{inner}".rstrip(".") for inner, _ in step.named_modules()}
    norms = nn.modules.batchnorm._BatchNorm
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, norms) and path not in frozen
    ]


def freeze(model: nn.Module, partition: Partition) -> None:
    """Set ``requires_grad`` for the parameters of trained groups only."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(partition.groups[partition.group_of[name]].trained)


def set_train_mode(model: nn.Module, partition: Partition) -> None:
    """Put ``model`` in train mode, and what is frozen in eval mode.

    Frozen are all steps of the frozen prefix, Dropout between its layers included. Elsewhere each
    module is frozen that owns a tensor of an untrained group.
    """
    # ``requires_grad=False`` does not freeze a BatchNorm: in train mode it normalizes by the batch,
    # and writes its running statistics, which are buffers and need no gradient.
    model.train()
    for _, step in sequential_modules(model)[: frozen_cut(model, partition)]:
        step.eval()
    for name, group in partition.group_of.items():
        if not partition.groups[group].trained:
            _mark_eval(model, name.rpartition(".")[0])


def _mark_eval(model: nn.Module, path: str) -> None:
    """Put the module at ``path`` in eval mode, without its children."""
    try:
        module = model.get_submodule(path)
    except AttributeError:  # ``model`` may be a tail, without the modules of the prefix
        return
    module.training = False  # eval() would reach its children, which may be trained
