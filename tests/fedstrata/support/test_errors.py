"""An error in two versions: the whole of it, and what of it may leave the machine."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support.errors import PrivateText, UserError, private, private_reason

PARTS = st.lists(st.tuples(st.text(), st.booleans()), min_size=1)


@given(PARTS)
def test_the_whole_has_all_parts_and_the_public_text_none_that_is_private(
    parts: list[tuple[str, bool]],
) -> None:
    message: str | PrivateText = ""
    for text, secret in parts:
        message = message + (private(text, "-") if secret else text)
    error = UserError(message)
    assert str(error) == "".join(text for text, _ in parts)
    assert error.public == "".join("-" if secret else text for text, secret in parts)


def test_plain_text_is_public() -> None:
    assert UserError("data.size: 0").public == str(UserError("data.size: 0")) == "data.size: 0"


def test_a_format_string_and_a_repr_let_nothing_out() -> None:
    message = "no " + private("Ann Lee.png", "such file")
    assert f"{message}" == "no such file"
    assert "Ann" not in repr(message)


def test_both_versions_survive_another_process() -> None:
    error = UserError("no " + private("Ann Lee.png", "such file"))
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(same), same.public) == ("no Ann Lee.png", "no such file")


def test_a_private_reason_stays_and_other_errors_pass() -> None:
    with (
        pytest.raises(UserError, match=r"^/srv/Ann: damaged$") as raised,
        private_reason("the file is damaged"),
    ):
        raise UserError("/srv/Ann: damaged")
    assert raised.value.public == "the file is damaged"
    with pytest.raises(KeyError), private_reason("the file is damaged"):
        raise KeyError("x")
