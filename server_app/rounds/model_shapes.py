"""What is wrong where sites of different networks exchange tensors of different shapes."""

from __future__ import annotations

from collections.abc import Mapping

LAST = "head.out"
WIDTH = "model.head=[64]"  # the last hidden layer of every head, and so the width before head.out


def models_problem(
    model: str, group: str, mine: Mapping[str, str], shared: Mapping[str, str]
) -> str:
    """Return how what a model exchanges in a group differs from what others do, and how to mend it.

    Parameters
    ----------
    model : str
        Which of the offered models.
    group : str
        The layer group.
    mine, shared : mapping of str to str
        Dtype and shape by tensor name, of this model and of those that are there already.
    """
    unlike = {
        name: (shared.get(name, "missing"), mine.get(name, "missing"))
        for name in sorted(mine.keys() | shared.keys())
        if mine.get(name) != shared.get(name)
    }
    listed = [f"{n} is {theirs} there and {own} here" for n, (theirs, own) in unlike.items()]
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return (
        f"what model {model!r} exchanges in group {group!r} does not agree in shape with that of the "
        f"other sites' models: {'; '.join(listed[:4])}{more}. {_mend(list(unlike))}"
    )


def _mend(names: list[str]) -> str:
    """Return what to write instead."""
    if all(name.startswith("extras.") for name in names):
        return (
            f"{WIDTH} gives all of them the same width of features, on which depends what this method "
            "exchanges"
        )
    if names == [f"{LAST}.{kind}" for kind in ("bias", "weight")]:
        return "Their tasks have different numbers of outputs: put head.out into groups.task"
    if any(name.startswith("head.out.") for name in names) and all(
        name.startswith("head.") for name in names
    ):
        return (
            f"{WIDTH} gives all of them the same width of features, and then head.out agrees: "
            "exchange it alone (method.common=[head.out], or groups.common=[head.out])"
        )
    if all(name.startswith("head.") for name in names):
        return (
            "head.out agrees: exchange it alone (method.common=[head.out], or "
            "groups.common=[head.out] with the rest in groups.personal)"
        )
    return (
        "Exchange what all models have in the same shape, such as head.out with "
        f"{WIDTH}, and put the rest into groups.personal: with method=layers "
        "groups.common=[head.out] groups.task=[] groups.personal=['...']. Or choose a method that "
        "exchanges no layers of a site's network, such as fedproto, fd or fml"
    )
