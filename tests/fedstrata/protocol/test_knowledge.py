"""What methods exchange besides layers is known here by name, and said in words."""

from __future__ import annotations

from fedstrata.protocol.knowledge import KNOWLEDGE, knowledge_of
from strategies.methods import METHODS


def test_each_group_of_knowledge_of_a_method_can_be_shared_by_name() -> None:
    for name, method in METHODS.items():
        known = method.known_groups(object.__new__(method))
        mine = {group for group, each in known.items() if each.knowledge}
        assert mine <= knowledge_of(name).keys(), name


def test_each_is_said_in_words_and_of_a_method_that_exists() -> None:
    for group, each in KNOWLEDGE.items():
        assert each.what
        assert each.reveals
        assert set(each.methods) <= METHODS.keys(), group
