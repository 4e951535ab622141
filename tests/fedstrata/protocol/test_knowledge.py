"""What methods exchange besides layers is known here by name, and said in words."""

from __future__ import annotations

from pathlib import Path

import yaml

import conf
from fedstrata.protocol.knowledge import DOWN_ONLY, KNOWLEDGE, knowledge_of, made_for
from strategies.method import Method
from strategies.methods import METHODS, make_method


def switched_on(name: str) -> Method:
    """Return a method as configured by default, with all that can be switched on."""
    options = yaml.safe_load((Path(conf.__file__).parent / "method" / f"{name}.yaml").read_text())
    options.pop("defaults", None)  # other choices that a method makes, such as a coding
    return make_method({key: True if value is False else value for key, value in options.items()})


def test_each_group_of_knowledge_of_a_method_can_be_shared_by_name() -> None:
    for name in METHODS:
        known = switched_on(name).known_groups()
        mine = {group for group, each in known.items() if each.knowledge and each.leaves}
        assert mine <= knowledge_of(name).keys(), name


def test_what_goes_down_only_is_known_by_name_and_cannot_be_shared() -> None:
    for name in METHODS:
        known = switched_on(name).known_groups()
        assert {group for group, each in known.items() if each.down_only} == made_for(name).keys()
    assert not DOWN_ONLY.keys() & KNOWLEDGE.keys()


def test_each_is_said_in_words_and_of_a_method_that_exists() -> None:
    for group, each in KNOWLEDGE.items():
        assert each.what
        assert each.reveals
        assert set(each.methods) <= METHODS.keys(), group
