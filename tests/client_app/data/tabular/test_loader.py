"""A site's rows of a table become inputs, targets and splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client_app.data.findings import Findings
from client_app.data.registry import categories, load, sums
from client_app.data.site_info import SiteInfo
from fedstrata.protocol.categories import CategoriesReport
from fedstrata.support.errors import UserError

HEADER = "age,sex,cp,label"


def rows(count=40, start=0) -> list[str]:
    return [
        f"{30 + (7 * n) % 37},{n % 2},{1 + n % 4},{'sick' if n % 3 else 'well'}"
        for n in range(start, start + count)
    ]


def write(path, lines, header=HEADER):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def load_table(options):
    def load_it(root, index=0, count=1, findings=None, seed=1, deployed=False, **changes):
        site, index, count = ("clinic", None, None) if deployed else (None, index, count)
        made = SiteInfo(
            site, None, index, count, root, deployed=deployed, findings=findings or Findings()
        )
        return load("tabular", options("tabular", **changes), made, seed)

    return load_it


def inputs(split) -> np.ndarray:
    return split.inputs.batch(np.arange(len(split))).numpy()


def everything(data) -> np.ndarray:
    return np.concatenate([inputs(part) for part in (data.train, data.validation, data.test)])


def test_all_other_columns_are_inputs(tmp_path, load_table) -> None:
    findings = Findings()
    data = load_table(write(tmp_path / "t.csv", rows()), findings=findings)
    assert (data.site, data.task, data.classes, data.input_shape) == (
        "site-00", "label", ("sick", "well"), (3,)
    )  # fmt: skip
    assert [len(part) for part in (data.train, data.validation, data.test)] == [28, 4, 8]
    assert "data.features=null: 3 inputs, 'age', 'sex', 'cp'" in findings.lines()
    assert data.train.inputs.batch(np.arange(1)).dtype == torch.float32


def test_features_and_categories_are_chosen_by_name(tmp_path, load_table) -> None:
    path = write(tmp_path / "t.csv", rows())
    data = load_table(
        path, features=["cp", "age"], categories={"cp": [1, 2, 3, 4]}, standardize="none"
    )
    values = everything(data)
    assert values.shape == (40, 5)
    assert set(values[:, :4].sum(axis=1)) == {1.0}
    assert values[:, :4].sum(axis=0).tolist() == [10, 10, 10, 10]
    assert sorted(values[:, 4]) == sorted(30 + (7 * n) % 37 for n in range(40))


def test_numbers_are_standardized_by_the_sites_training_rows(tmp_path, load_table) -> None:
    data = load_table(write(tmp_path / "t.csv", rows()), categories={"cp": [1, 2, 3, 4]})
    train = inputs(data.train)
    assert train[:, :2].mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert train[:, :2].std(axis=0) == pytest.approx([1, 1], abs=1e-6)
    assert set(np.unique(train[:, 2:])) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("impute", "filled"), [("mean", 40.0), ("median", 30.0), ("indicator", 40.0)]
)
def test_missing_numbers_are_filled_from_training_rows(
    tmp_path, load_table, impute, filled
) -> None:
    ages = [30, 30, 30, 70] * 8
    known = [f"{age},0,{'ab'[n % 2]},train" for n, age in enumerate(ages)]
    rest = [f"{word},1,{'ab'[n % 2]},{part}" for part in ("validation", "test")
            for n, word in enumerate(["?", "NA", "", "90"])]  # fmt: skip
    path = write(tmp_path / "t.csv", known + rest, "age,sex,label,split")
    findings = Findings()
    data = load_table(path, findings=findings, impute=impute, standardize="none")
    assert inputs(data.test)[:, 0].tolist() == [filled] * 3 + [90]
    assert f"missing values, filled by {impute}: age 6" in findings.lines()
    if impute == "indicator":
        assert inputs(data.test)[:, 2:].tolist() == [[1, 0]] * 3 + [[0, 0]]


def test_rows_with_a_missing_value_can_be_left_out(tmp_path, load_table) -> None:
    findings = Findings()
    path = write(tmp_path / "t.csv", ["?,1,1,sick", *rows(), "40,,1,well", "40,0,1,"])
    data = load_table(path, impute="drop", findings=findings)
    assert len(everything(data)) == 40
    assert findings.left_out == {"no label": 1, "missing value": 2}
    assert f"left out, missing value: 2 ({path}, line 2, {path}, line 43)" in findings.lines()


def test_a_missing_category_has_none(tmp_path, load_table) -> None:
    path = write(tmp_path / "t.csv", [*rows(), "40,0,?,well"])
    data = load_table(path, features=["cp"], categories={"cp": [1, 2, 3, 4]})
    assert sorted(everything(data).sum(axis=1)) == [0.0] + [1.0] * 40


def test_each_file_of_a_folder_is_a_site(tmp_path, load_table) -> None:
    for number, name in enumerate(("north", "south")):
        write(tmp_path / f"{name}.csv", rows(20, 20 * number))
    data = [load_table(tmp_path, index, 2) for index in range(2)]
    assert [each.site for each in data] == ["north", "south"]
    assert [each.source for each in data] == ["north", "south"]
    with pytest.raises(UserError, match="has 2 files, one a site"):
        load_table(tmp_path, 2, 3)


def test_categories_are_agreed_over_all_files_of_a_simulation(tmp_path, load_table) -> None:
    write(tmp_path / "a.csv", [f"{n},red,{'yn'[n % 2]}" for n in range(20)], "n,color,label")
    write(tmp_path / "b.csv", [f"{n},blue,{'yn'[n % 2]}" for n in range(20)], "n,color,label")
    data = [load_table(tmp_path, i, 2, categories={"color": "agreed"}) for i in range(2)]
    assert [each.input_shape for each in data] == [(3,), (3,)]
    assert inputs(data[0].train)[:, 1:].tolist() == [[0, 1]] * 14


def test_a_deployed_site_waits_with_its_own_categories(tmp_path, load_table, options) -> None:
    path = write(tmp_path / "a.csv", [f"{n},{'red' if n else ' '},{'yn'[n % 2]}" for n in range(30)],
                 "n,color,label")  # fmt: skip
    chosen = {"features": ["n", "color"], "classes": {"label": ["y", "n"]}}
    waiting = load_table(path, deployed=True, categories={"color": "agreed"}, **chosen)
    assert waiting.input_shape == (2,)
    info = SiteInfo("clinic", None, None, None, path, deployed=True)
    own = options("tabular", categories={"color": "agreed", "n": [*range(30)]}, **chosen)
    assert categories("tabular", own, info) == CategoriesReport("clinic", {"color": ("red",)})
    own["categories"]["n"] = "agreed"
    assert categories("tabular", own, info).columns["n"][:3] == ("0", "1", "10")
    write(path, [f"{n},{n},{'yn'[n % 2]}" for n in range(300)], "n,color,label")
    with pytest.raises(UserError, match="300 categories; at most 200 are taken") as raised:
        categories("tabular", own, info)
    assert "looks like an identifier" in str(raised.value)
    with pytest.raises(UserError, match="data=faces has no categories; there are tabular"):
        categories("faces", own, info)


def test_classes_are_those_of_all_files_of_a_simulation(tmp_path, load_table) -> None:
    for name, words in (("a", ("mild", "well")), ("b", ("sick", "well"))):
        write(tmp_path / f"{name}.csv", [f"{n},{words[n % 2]}" for n in range(30)], "age,label")
    for chosen in ({}, {"features": ["age"]}):
        data = [load_table(tmp_path, i, 2, **chosen) for i in range(2)]
        assert data[0].classes == data[1].classes == ("mild", "sick", "well")


def test_sites_can_be_the_values_of_a_column(tmp_path, load_table, options) -> None:
    lines = [f"{row},{'north' if n < 15 else 'south'}" for n, row in enumerate(rows())]
    path = write(tmp_path / "t.csv", lines, f"{HEADER},hospital")
    split = {**options("tabular")["site_split"], "scheme": "natural", "column": "hospital"}
    data = [load_table(path, index, 2, site_split=split) for index in range(2)]
    assert [len(everything(each)) for each in data] == [15, 25]
    assert [each.source for each in data] == ["north", "south"]
    assert data[0].input_shape == (3,)  # the column of the sites is no input


def test_a_parquet_file_gives_what_a_csv_file_gives(tmp_path, load_table) -> None:
    pandas = pytest.importorskip("pandas")
    path = write(tmp_path / "t.csv", [*rows(), ",1,2,sick"])
    pandas.read_csv(path).to_parquet(tmp_path / "t.parquet")
    chosen = {"categories": {"cp": [1, 2, 3, 4]}, "seed": 3}
    one, other = (load_table(tmp_path / name, **chosen) for name in ("t.csv", "t.parquet"))
    assert np.array_equal(everything(one), everything(other))
    assert one.train.labels.tolist() == other.train.labels.tolist()


def test_a_column_of_numbers_can_be_predicted(tmp_path, load_table) -> None:
    tasks = {"years": {"column": "age", "kind": "number", "unit": "years"}}
    data = load_table(write(tmp_path / "t.csv", rows()), tasks=tasks, exclude=["label"])
    assert (data.classes, data.kind.name, data.input_shape) == (("age",), "number", (2,))
    assert (data.train.labels.shape, data.train.labels.dtype) == ((25, 1), np.float32)
    targets = np.concatenate([p.labels for p in (data.train, data.validation, data.test)])
    assert sorted(targets[:, 0]) == sorted(30 + (7 * n) % 37 for n in range(40))


def test_columns_of_no_use_are_warned_of(tmp_path, load_table) -> None:
    findings = Findings()
    lines = [f"{row},{1000 + n},1" for n, row in enumerate(rows())]
    load_table(write(tmp_path / "t.csv", lines, f"{HEADER},number,one"), findings=findings)
    said = findings.lines()
    assert "warning: the same in all training rows: 'one'" in said
    assert (
        "warning: another whole number in every row, as an identifier has: 'number'; leave such "
        "columns out of data.features" in said
    )


def test_the_numbers_of_the_rows_are_no_input(tmp_path, load_table) -> None:
    findings = Findings()
    lines = [f"{n},{row}" for n, row in enumerate(rows())]
    data = load_table(write(tmp_path / "t.csv", lines, f",{HEADER}"), findings=findings)
    assert data.input_shape == (3,)
    assert findings.left_out == {"row numbers": 1}


def test_the_same_seed_gives_the_same_splits(tmp_path, load_table) -> None:
    path = write(tmp_path / "t.csv", rows())
    one, same, other = (inputs(load_table(path, seed=seed).test) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "data.features=null: all sites need the same inputs"),
        ({"features": ["age"]}, "data.classes=null"),
    ],
)
def test_a_deployment_names_its_columns(tmp_path, load_table, changes, said) -> None:
    with pytest.raises(UserError, match=said):
        load_table(write(tmp_path / "clinic.csv", rows()), deployed=True, **changes)


def test_a_deployed_site_reads_its_own_file(tmp_path, load_table) -> None:
    for name in ("clinic", "other"):
        write(tmp_path / f"{name}.csv", rows(30 if name == "clinic" else 20))
    data = load_table(tmp_path, deployed=True, features=["age"],
                      classes={"label": ["sick", "well"]})  # fmt: skip
    assert (data.site, len(everything(data))) == ("clinic", 30)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": ["agee"]}, "no column 'agee'; there is 'age'"),
        ({"features": ["age", "label"]}, "'label' is what task 'label' predicts"),
        ({"features": ["age"], "categories": {"cp": [1, 2]}}, "data.categories.cp: not in"),
        ({"categories": {"cp": [1, 2, 3]}}, r"10 cells are no category of it \('4' in line 5"),
        ({"categories": {"cp": [1, 1]}}, "data.categories.cp: two names or more"),
        ({"categories": {"age": "x"}}, "data.categories.age: two names or more"),
        ({"impute": "zero"}, "data.impute: one of mean, median, indicator, drop, not 'zero'"),
        ({"standardize": "sit"}, "data.standardize: one of none, site, agreed"),
        ({"decimal": ";"}, 'data.decimal: "." or ","'),
        ({"tasks": ["heart"]}, "no column 'heart' to read"),
        ({"tasks": []}, "write names, each once"),
        ({"features": ["age"], "exclude": ["cp"]}, "data.exclude is for data.features=null"),
        ({"exclude": ["agee"]}, "no column 'agee'"),
        ({"exclude": ["age", "sex", "cp"]}, "no column is left to learn from"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, load_table, changes, said) -> None:
    with pytest.raises(UserError, match=said):
        load_table(write(tmp_path / "t.csv", rows()), **changes)


def test_words_among_numbers_are_all_named(tmp_path, load_table) -> None:
    path = write(tmp_path / "t.csv", ["old,1,1,sick", *rows(), "1_0,0,inf,well"])
    with pytest.raises(
        UserError, match=r"2 cells are no number \('old' in line 2, '1_0' in line 43\)"
    ):
        load_table(path)


def test_columns_of_words_are_named_together(tmp_path, load_table) -> None:
    lines = [f"{row},{'ab'[n % 2]},{'xy'[n % 2]}" for n, row in enumerate(rows())]
    path = write(tmp_path / "t.csv", lines, f"{HEADER},ward,color")
    with pytest.raises(UserError, match="'ward', 'color': these hold words"):
        load_table(path)


def test_a_decimal_comma_is_proposed(tmp_path, load_table) -> None:
    path = write(tmp_path / "t.csv", [f'"{n},5",{"ab"[n % 2]}' for n in range(40)], "x,label")
    with pytest.raises(UserError, match=r"write data.decimal=','"):
        load_table(path, features=["x"])
    data = load_table(path, features=["x"], decimal=",", standardize="none")
    assert sorted(everything(data)[:, 0]) == [n + 0.5 for n in range(40)]


def test_files_with_other_columns_are_refused(tmp_path, load_table) -> None:
    write(tmp_path / "a.csv", rows())
    write(tmp_path / "b.csv", [f"{row},1" for row in rows()], f"{HEADER},chol")
    with pytest.raises(UserError, match="'chol' not in the files of all sites"):
        load_table(tmp_path, 0, 2)


def test_an_agreed_scale_is_applied_to_all_splits(tmp_path, load_table) -> None:
    path = write(tmp_path / "t.csv", rows())
    chosen = {"features": ["age", "cp"], "categories": {"cp": [1, 2, 3, 4]}}
    raw = everything(load_table(path, standardize="none", **chosen))
    waiting = everything(load_table(path, standardize="agreed", **chosen))
    constants = {"mean": [40, 0, 0, 0, 0], "std": [10, 1, 1, 1, 1]}
    agreed = everything(load_table(path, standardize="agreed", constants=constants, **chosen))
    assert np.array_equal(waiting, raw)
    assert np.allclose(agreed[:, 0], (raw[:, 0] - 40) / 10)
    assert np.array_equal(agreed[:, 1:], raw[:, 1:])


def test_sums_are_over_the_numbers_in_training_rows(tmp_path, options) -> None:
    lines = [f"{n},{'?' if n == 1 else 2 * n},{'ab'[n % 2]},x,{part}" for n, part in enumerate(
        ["train"] * 6 + ["validation"] * 2 + ["test"] * 2)]  # fmt: skip
    path = write(tmp_path / "t.csv", lines, "n,m,label,c,split")
    chosen = options("tabular", categories={"c": ["x", "y"]}, impute="indicator")
    info = SiteInfo(None, None, 0, 1, path)
    report = sums("tabular", chosen, info, 1)
    assert report.site == "site-00"
    assert report.inputs.count == (6, 5, 0, 0, 0, 0, 0)
    assert report.inputs.total[:2] == (15.0, 28.0)
    assert report.inputs.squares[:2] == (55.0, 216.0)
    assert len(report.targets) == 0
    assert len(report.inputs) == load("tabular", chosen, info, 1).input_shape[0]
    tasks = {"n": {"kind": "number"}}
    number = sums("tabular", {**chosen, "tasks": tasks, "exclude": ["label"]}, info, 1)
    assert number.targets.total == (15.0,)


def test_a_groups_rows_stay_on_one_side(tmp_path, load_table) -> None:
    lines = [f"{row},p{n // 4}" for n, row in enumerate(rows())]
    path = write(tmp_path / "t.csv", lines, f"{HEADER},patient")
    findings = Findings()
    load_table(path, findings=findings)
    assert any("write data.group=patient" in line for line in findings.lines())
    findings = Findings()
    data = load_table(path, group="patient", findings=findings)
    assert data.input_shape == (3,)  # the group is no input
    assert findings.groups == {"by": "patient", "groups": 10, "on_both_sides": 0}
    assert all(len(part) % 4 == 0 for part in (data.train, data.validation, data.test))


def test_the_same_row_in_two_splits_is_refused(tmp_path, load_table) -> None:
    lines = [
        f"{n / 7:.3f},{'ab'[n % 2]},{('train', 'validation', 'test')[n % 3]}" for n in range(60)
    ]
    copied = [*lines, lines[0].replace("train", "test")]
    path = write(tmp_path / "t.csv", copied, "x,label,split")
    with pytest.raises(UserError, match=r"data.duplicates"):
        load_table(path)
    assert len(everything(load_table(path, duplicates="keep"))) == 61
    assert len(everything(load_table(path, duplicates="drop"))) == 60


def test_equal_rows_of_a_coarse_table_are_chance(tmp_path, load_table) -> None:
    lines = [f"{n % 2},{'ab'[n % 2]},{('train', 'validation', 'test')[n % 3]}" for n in range(60)]
    findings = Findings()
    data = load_table(write(tmp_path / "t.csv", lines, "x,label,split"), findings=findings)
    assert len(everything(data)) == 60
    assert any("4 rows are the same in two splits" in line for line in findings.lines())


def test_delimiter_and_split_names_are_found_or_given(tmp_path, load_table) -> None:
    lines = [f"{n / 7:.3f};{'ab'[n % 2]};{('fit', 'Val', 'holdout')[n % 3]}" for n in range(60)]
    path = write(tmp_path / "t.csv", lines, "x;label;split")
    data = load_table(path, split_names={"fit": "train", "holdout": "test"})
    assert [len(part) for part in (data.train, data.validation, data.test)] == [20, 20, 20]
