"""Every site numbers the classes of a task alike, and a real site sends only configured names."""

from __future__ import annotations

import pytest

from client_app.data.classes import class_names
from fedstrata.support.errors import UserError, as_private_text

FOUND = {label: as_private_text(f"{label}.png") for label in ("dog", "cat")}


def names(configured, found=FOUND, *, deployed=False):
    return class_names(configured, "label", found, deployed=deployed)


def test_a_simulation_takes_the_classes_of_the_data_in_sorted_order() -> None:
    assert names(None) == ("cat", "dog")


def test_configured_classes_keep_their_order_and_may_have_no_example() -> None:
    assert names({"label": ["dog", "bird", "cat"]}) == ("dog", "bird", "cat")


def test_a_deployed_site_does_not_send_names_of_its_own() -> None:
    with pytest.raises(UserError, match=r"data\.classes=null.*data\.classes=\{label:\[cat,dog\]\}"):
        names(None, deployed=True)
    assert names({"label": ["cat", "dog"]}, deployed=True) == ("cat", "dog")


@pytest.mark.parametrize(
    ("configured", "found", "message"),
    [
        ({"label": ["cat", "dig"]}, FOUND, r"dog\.png: class 'dog' is not among data\.cl.*'dig'"),
        ({"lable": ["cat", "dog"]}, FOUND, "no task 'label'; there is 'lable'"),
        ({"label": ["cat", "cat", "dog"]}, FOUND, "each once"),
        ({"label": ["cat"]}, FOUND, "two classes or more"),
        (None, {"cat": as_private_text("cat.png")}, "two classes or more"),
    ],
)
def test_wrong_classes_are_reported(configured, found, message) -> None:
    with pytest.raises(UserError, match=message):
        names(configured, found)
