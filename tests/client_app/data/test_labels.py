"""Cells become targets: what is missing, what is the same, and what the kind of a task needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data.cells import CellRules, Cells
from client_app.data.findings import Findings
from client_app.data.labels import Targets, read_targets
from client_app.data.task_options import read_tasks
from fedstrata.support.errors import UserError, as_private_text, private

NAN = float("nan")
NUMBERS = {"columns": ["c0", "c1"], "kind": "number"}


def read(
    *columns, task=None, rules=None, classes=None, deployed=False, findings=None, folders=False
) -> Targets:
    """Read columns of the task ``t``."""
    cells = Cells(
        columns,
        lambda row: private(f"secret.csv, line {row + 2}", f"a file, line {row + 2}"),
        as_private_text("secret.csv"),
        "picture",
        folders,
    )
    (options,) = read_tasks({"t": task or {"columns": [f"c{i}" for i in range(len(columns))]}})
    return read_targets(
        cells,
        options,
        rules or CellRules(),
        None if classes is None else {"t": classes},
        deployed=deployed,
        findings=findings if findings is not None else Findings(),
    )


def test_words_for_missing_are_no_class_and_are_counted() -> None:
    found = Findings()
    column = ["cat", "nan", "NA", "N/A", "None", "null", " ", "", "#N/A", "NULL", "dog"]
    targets = read(column, findings=found)
    assert targets.classes == ("cat", "dog")
    assert targets.rows.tolist() == [0, 10]
    assert targets.values.tolist() == [0, 1]
    assert found.left_out == {"no label": 9}
    assert found.examples["no label"][0].whole == "secret.csv, line 3"


@pytest.mark.parametrize("word", ["?", "-", "Unknown", "#N/A N/A", "-999", "n.a."])
def test_a_class_that_often_means_nothing_is_a_warning(word) -> None:
    found = Findings()
    column = ["cat", "dog", word, word]
    assert len(read(column, findings=found).classes) == 3
    (warning,) = found.warnings
    assert warning.whole.startswith(f"column 'c0': {word!r} (2) taken as a class;")
    assert f",'{word}'];" in warning.whole
    assert warning.public.startswith("column 'c0': some labels taken as a class;")
    assert "write it into data.missing;" in warning.public
    quiet = Findings()
    assert read(column, rules=CellRules(missing=[word]), findings=quiet).classes == ("cat", "dog")
    read(column, classes=["cat", "dog", word], findings=quiet)
    read(column, folders=True, findings=quiet)
    assert not quiet.warnings


def test_plus_and_minus_are_results() -> None:
    found = Findings()
    assert read(["+", "-", "+"], findings=found).classes == ("+", "-")
    assert not found.warnings


def test_what_is_missing_can_be_configured() -> None:
    rules = CellRules(missing=["unknown"])
    assert read(["nan", "a", "Unknown ", ""], rules=rules).classes == ("a", "nan")
    assert read(["none", "some"], classes=["none", "some"]).values.tolist() == [0, 1]
    assert read(["none", "some"], folders=True).classes == ("none", "some")


def test_a_column_without_any_label_is_reported() -> None:
    with pytest.raises(UserError, match=r"secret\.csv: no picture has a label in column 'c0'"):
        read(["nan", ""])


def test_names_are_any_unicode_and_are_composed() -> None:
    assert read(["O\u0308dem", "Ödem", "it's", "1a"]).classes == ("1a", "it's", "Ödem")
    assert read(["O\u0308dem", "b"], classes=["Ödem", "b"]).values.tolist() == [0, 1]
    assert read(["Ödem", "b"], classes=["O\u0308dem", "b"]).classes == ("Ödem", "b")


@pytest.mark.parametrize(
    ("column", "joined"),
    [(["1", "1.0", "2"], ("1", "2")), (["Cat", "cat ", "CAT", "dog", "CAT"], ("CAT", "dog"))],
)
def test_labels_that_look_the_same_are_reported_or_joined(column, joined) -> None:
    with pytest.raises(UserError, match=r"differ only in case.*data\.join_labels=true") as raised:
        read(column)
    assert "cat" not in raised.value.public.lower()
    found = Findings()
    assert read(column, rules=CellRules(join=True), findings=found).classes == joined
    assert found.notes
    assert read(column, classes=sorted({each.strip() for each in column})).values.max() >= 2


def test_labels_join_the_configured_spelling() -> None:
    targets = read(["CAT", "Dog"], classes=["cat", "dog"], rules=CellRules(join=True))
    assert targets.classes == ("cat", "dog")
    with pytest.raises(UserError, match=r"not among.*'cat'.*join_labels=true"):
        read(["CAT", "dog"], classes=["cat", "dog"])


def test_all_classes_that_are_not_configured_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"class 'x1'.*class 'x2'; class 'x3'"):
        read(["x3", "x1", "a", "x2"], classes=["a", "b"])


def test_labels_by_number_follow_the_order_of_the_names() -> None:
    found = Findings()
    targets = read(["1", "0", "1"], classes=["cat", "dog"], findings=found)
    assert targets.values.tolist() == [1, 0, 1]
    assert found.notes[0].whole == "column 'c0': labels by number, 0 is 'cat', 1 is 'dog'"
    assert read(["1"], classes=["cat", "dog"]).classes == ("cat", "dog")


def test_labels_by_number_with_gaps_are_reported() -> None:
    with pytest.raises(UserError, match=r"from 0 to 1 .*\(0,255\).*data\.classes=\{t:\[0,255\]\}"):
        read(["0", "255"], classes=["background", "lung"])
    with pytest.raises(UserError, match=r"with gaps.*data\.classes=\{t:\[0,255\]\}") as raised:
        read(["0", "255"])
    assert "255" not in raised.value.public
    assert read(["0", "255"], classes=["0", "255"]).values.tolist() == [0, 1]
    assert read(["1", "2", "3"]).classes == ("1", "2", "3")
    assert read(["3", "8"], folders=True).classes == ("3", "8")


@pytest.mark.parametrize("digits", [24, 400, 5000])
def test_long_numbers_are_named_as_they_are(digits: int) -> None:
    for classes in (None, ["cat", "dog"]):
        with pytest.raises(UserError) as raised:
            read(["1" * digits, "0"], classes=classes)
        assert ("1" * digits if digits < 4000 else "kind=number") in str(raised.value)


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_outputs_of_one_name_are_refused(kind: str) -> None:
    for columns, names in ((["a", "b"], ["u", "u"]), (["a", "a"], None)):
        with pytest.raises(UserError, match="each name once"):
            read(["1", "0"], ["0", "1"], task={"columns": columns, "kind": kind}, classes=names)


def test_numbers_to_predict_are_no_classes() -> None:
    ages = [f"{20 + row * 1.37:.2f}" for row in range(40)]
    message = r"40 different numbers for 40 pictures; .*data\.tasks\.t\.kind=number"
    for classes in (None, ["young", "old"]):
        with pytest.raises(UserError, match=message):
            read(ages, classes=classes)
    with pytest.raises(UserError, match=message):
        read([str(number) for number in range(40)])
    with pytest.raises(UserError, match=r'kind=number data\.decimal=","'):
        read([age.replace(".", ",") for age in ages])
    found = Findings()
    read([str(number % 30) for number in range(40)], findings=found)
    assert "kind=number" in found.warnings[0].whole


def test_a_label_of_its_own_for_every_example_is_reported() -> None:
    with pytest.raises(UserError, match=r"every picture has a label of its own \(12 of them"):
        read([f"name {row}" for row in range(12)])


def test_several_labels_in_a_cell_of_one_class_are_reported() -> None:
    for cell, option in [("a|b", "kind=labels,"), ("a;b", r"kind=labels data.*separator=';'")]:
        with pytest.raises(UserError, match=f"has several labels; write data.tasks.t.{option}"):
            read(["a", "b", cell])
    assert read(["a", "b", "a|b"], classes=["a", "b", "a|b"]).values.tolist() == [0, 1, 2]
    assert read(["left, upper", "b"]).classes == ("b", "left, upper")


def test_labels_stand_in_one_column() -> None:
    found = Findings()
    column = ["Effusion|Edema", "No Finding", "", "Edema"]
    targets = read(column, task={"column": "c0", "kind": "labels"}, findings=found)
    assert targets.classes == ("Edema", "Effusion")
    assert targets.rows.tolist() == [0, 1, 3]
    assert targets.values.dtype == np.float32
    assert targets.values.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert found.left_out == {"no label": 1}
    other = {"column": "c0", "kind": "labels", "separator": ";", "none": "normal"}
    assert read(["a;b", "Normal"], task=other).values.tolist() == [[1, 1], [0, 0]]
    with pytest.raises(UserError, match="class 'b' is not among"):
        read(["a;b"], task=other, classes=["a", "c"])


def test_labels_have_a_column_each() -> None:
    task = {"columns": ["Pleural Effusion", "Edema"], "kind": "labels"}
    columns = ["1.0", "yes", "nan", "", "-1"], ["0", "False", "TRUE", "", "0"]
    targets = read(*columns, task=task)
    assert targets.classes == ("Pleural Effusion", "Edema")
    assert targets.rows.tolist() == [0, 1, 2, 4]
    np.testing.assert_array_equal(targets.values, [[1, 0], [1, 0], [NAN, 1], [NAN, 0]])
    assert read(["1", "-1"], task={"columns": ["e"], "kind": "labels", "uncertain": "positive"})
    assert read(*columns, task=task, classes=["e", "o"]).classes == ("e", "o")
    single = {"column": "edema", "kind": "labels"}
    assert read(["1", "0", "1"], task=single).values.tolist() == [[1], [0], [1]]


@pytest.mark.parametrize(("policy", "value"), [("positive", 1), ("negative", 0), ("refuse", None)])
def test_uncertain_labels_follow_their_policy(policy, value) -> None:
    task = {"columns": ["a", "b"], "kind": "labels", "uncertain": policy}
    columns = ["-1", "1"], ["0", "-1.0"]
    if value is None:
        with pytest.raises(UserError, match=r"line 2, column 'a': '-1'.*; secret.csv, line 3"):
            read(*columns, task=task)
    else:
        found = Findings()
        targets = read(*columns, task=task, findings=found)
        assert targets.values.tolist() == [[value, 0], [1, value]]
        (note,) = found.notes
        assert note.whole == f"uncertain cells (-1): 2 count as {value} (data.tasks.t.uncertain)"
        assert note.public == f"uncertain cells (-1): count as {value} (data.tasks.t.uncertain)"


def test_a_cell_that_is_no_label_is_reported() -> None:
    task = {"columns": ["a", "b"], "kind": "labels"}
    with pytest.raises(UserError, match="column 'b': 'maybe' is not 0, 1 or empty") as raised:
        read(["1", "0"], ["0", "maybe"], task=task)
    assert raised.value.public.startswith("a file, line 3, column 'b': a cell is not 0, 1 or empty")


def test_numbers_are_read_with_their_missing_ones() -> None:
    task = {"columns": ["age", "weight"], "kind": "number"}
    targets = read(["61.5", "", "1e2", "na"], ["70", "80", "", ""], task=task)
    assert targets.classes == ("age", "weight")
    assert targets.rows.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(targets.values, [[61.5, 70], [NAN, 80], [100, NAN]])
    comma = CellRules(decimal=",")
    assert read(["61,5"], task={"column": "a", "kind": "number"}, rules=comma).values[0, 0] == 61.5


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("61,5", r'is not a number; write data\.decimal=","'),
        ("inf", "is not finite"),
        ("1e999", "is not finite"),
        ("old", "is not a number; correct it"),
        ("1_000", "is not a number"),
        ("\u0661", "is not a number"),
    ],
)
def test_a_cell_that_is_no_number_is_reported(cell, message) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read(["1.5", cell, "x"], task={"column": "a", "kind": "number"})
    assert cell not in raised.value.public


def test_numbers_that_are_all_the_same_are_a_warning() -> None:
    found = Findings()
    read(["7.5", "", "7.50"], ["1", "2", "3"], task=NUMBERS, findings=found)
    (warning,) = found.warnings
    assert warning.whole == "column 'c0': all numbers to predict are the same"


def test_a_deployed_site_sends_configured_names_alone() -> None:
    with pytest.raises(UserError, match=r"data\.classes=null"):
        read(["a", "b"], deployed=True)
    with pytest.raises(UserError, match=r"data\.classes=null"):
        read(["a|b"], task={"kind": "labels"}, deployed=True)
    named = {"columns": ["a", "b"], "kind": "labels"}
    assert read(["1", "0"], ["0", "1"], task=named, deployed=True).classes == ("a", "b")


def test_strata_are_classes_rarest_labels_and_fifths() -> None:
    assert read(["b", "a"]).strata().tolist() == [1, 0]
    labels = {"columns": ["a", "b"], "kind": "labels"}
    several = read(["1", "1", "0", "1"], ["0", "1", "0", ""], task=labels)
    assert several.strata().tolist() == [0, 1, 2, 0]
    numbers = read([str(row) for row in range(10)], task={"kind": "number"})
    assert np.bincount(numbers.strata()).tolist() == [2] * 5


@given(
    column=st.lists(
        st.one_of(st.sampled_from(["1", "1.0", "-1", "a|b", "A", "a", "nan", "1e999"]), st.text()),
        min_size=1,
        max_size=6,
    ),
    kind=st.sampled_from(["classes", "labels", "number"]),
    join=st.booleans(),
)
def test_any_cells_give_targets_or_a_user_error(column, kind, join) -> None:
    try:
        targets = read(column, task={"kind": kind}, rules=CellRules(join=join))
    except UserError:
        return
    assert len(targets.rows) == len(targets.values) == len(targets.strata()) <= len(column)
    assert not np.isinf(targets.values).any()


def test_missing_labels_are_counted_by_column() -> None:
    found = Findings()
    task = {"columns": ["edema", "mass"], "kind": "labels"}
    read(["1", "", "0", ""], ["0", "NA", "", "1"], task=task, findings=found)
    assert found.missing == {"edema": 2, "mass": 2}
    found = Findings()
    read(["none", "mild", "nan", "none"], classes=["none", "mild"], findings=found)
    assert found.missing == {"c0": 1}
    found = Findings()
    read(["none", "some"], folders=True, findings=found)
    assert found.missing == {}
