"""Texts become token ids of one length; a wrong row, file or vocabulary is reported."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_app.data.registry import load
from client_app.data.site_info import SiteInfo
from client_app.data.tokens import tokenizer_digest
from fedstrata.support.errors import UserError
from models.text_folders import read_tokenizer
from tests.helpers.text_models import WORDS, tiny_bert

pytest.importorskip("transformers")
TOPICS = {"lungs": ("cough", "fever"), "joints": ("knee", "hip"), "skin": ("rash", "itch")}


def rows(per_topic: int = 20) -> list[str]:
    """Rows of text, label, urgency, topic; the label is which of the topic's two words there is."""
    found = []
    for topic, words in TOPICS.items():
        for number in range(per_topic):
            label = ("first", "second")[number % 2]
            urgency = ("now", "later", "")[number % 3]
            patient = " ".join(["the patient has"] + ["the"] * (number // 2))
            found.append(f"{patient} {words[number % 2]},{label},{urgency},{topic}")
    return found


HEADER = "text,label,urgency,topic"


@pytest.fixture
def notes(tmp_path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "all.csv").write_text("\n".join([HEADER, *rows()]), encoding="utf-8")
    return tmp_path / "notes"


@pytest.fixture
def load_text(models_dir, options):
    """Load text data for a site; options as in conf/data/text.yaml but for the changes."""

    def load_it(root, index=None, count=None, site=None, task=None, seed=1, **changes):
        chosen = options("text", **{"length": 8, **changes})
        return load("text", chosen, SiteInfo(site, task, index, count, root, models_dir), seed)

    return load_it


def texts_of_splits(data) -> list[set[bytes]]:
    return [
        {row.tobytes() for row in s.inputs.ids} for s in (data.train, data.validation, data.test)
    ]


def natural(options, scheme="natural") -> dict[str, object]:
    return {**options("text")["site_split"], "scheme": scheme, "column": "topic"}


def test_texts_become_ids_of_one_length(notes, load_text) -> None:
    data = load_text(notes, site="north")
    assert (data.site, data.task) == ("north", "label")
    assert data.classes == ("first", "second")
    assert data.input_shape == (8,)
    assert [len(data.train), len(data.validation), len(data.test)] == [42, 6, 12]
    batch = data.train.inputs.batch(np.arange(5))
    assert (str(batch.dtype), batch.shape) == ("torch.int64", (5, 8))
    assert set(batch[:, 0].tolist()) == {2}  # [CLS]
    assert int(batch.max()) < 5 + len(WORDS)


def test_splits_are_disjoint_and_follow_the_seed(notes, load_text) -> None:
    def drawn(seed: int) -> list[set[bytes]]:
        return texts_of_splits(load_text(notes, seed=seed, length=24))

    first = drawn(1)
    assert sum(map(len, first)) == len(set().union(*first)) == 60
    assert drawn(1) == first
    assert drawn(2) != first


def test_copies_of_a_text_stay_in_one_split(notes, load_text) -> None:
    lines = [HEADER, *(row for row in rows() for _ in range(3))]
    (notes / "all.csv").write_text("\n".join(lines), encoding="utf-8")
    for seed in range(5):
        train, validation, test = texts_of_splits(load_text(notes, seed=seed, length=24))
        assert not train & validation
        assert not train & test
        assert not validation & test


def test_given_splits_are_kept(notes, load_text) -> None:
    names = ("train", "train", "train", "val", "test")
    lines = [f"{row},{names[number % 5]}" for number, row in enumerate(rows())]
    (notes / "all.csv").write_text("\n".join([f"{HEADER},split", *lines]), encoding="utf-8-sig")
    data = load_text(notes, length=24)
    assert [len(data.train), len(data.validation), len(data.test)] == [36, 12, 12]


def test_natural_gives_each_site_a_topic(notes, load_text, options) -> None:
    sites = [
        load_text(notes, index=index, count=3, site_split=natural(options)) for index in range(3)
    ]
    words = [set(np.unique(data.train.inputs.ids)) for data in sites]
    own = [{5 + WORDS.index(word) for word in TOPICS[topic]} for topic in sorted(TOPICS)]
    for number in range(3):
        assert own[number] <= words[number]
        assert not words[number] & set().union(*own[:number], *own[number + 1 :])
    with pytest.raises(UserError, match="'num-supernodes=3'"):
        load_text(notes, index=0, count=4, site_split=natural(options))
    wrong = {**natural(options), "column": "topics"}
    with pytest.raises(UserError, match="no column 'topics'; there is 'topic'"):
        load_text(notes, index=0, count=3, site_split=wrong)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "linear"])
def test_sites_of_a_simulation_share_a_file(notes, load_text, options, scheme) -> None:
    site_split = {**options("text")["site_split"], "scheme": scheme, "alpha": 5.0}
    shares = [
        set().union(
            *texts_of_splits(load_text(notes, index=i, count=3, site_split=site_split, length=24))
        )
        for i in range(3)
    ]
    assert len(set().union(*shares)) == sum(map(len, shares)) == 60


def test_each_column_of_labels_is_a_task(notes, load_text) -> None:
    chosen = {"tasks": ["label", "urgency"]}
    data = [load_text(notes, index=index, count=4, **chosen) for index in range(4)]
    assert [each.task for each in data] == ["label", "urgency"] * 2
    assert data[1].classes == ("later", "now")
    # numbers 2, 5, ..., 17 of the 20 rows of each topic have no urgency
    assert sum(len(s) for d in data[1::2] for s in (d.train, d.validation, d.test)) == 42
    assert load_text(notes, task="urgency").task == "urgency"
    with pytest.raises(UserError, match="name this site's own in its node config"):
        load_text(notes, **chosen)


def test_each_site_can_have_a_file(tmp_path, load_text) -> None:
    for number, topic in enumerate(TOPICS):
        own = rows()[20 * number : 20 * number + 20]
        (tmp_path / f"{topic}.csv").write_text("\n".join([HEADER, *own]), encoding="utf-8")
    names = [load_text(tmp_path, index=index, count=3).site for index in range(3)]
    assert names == sorted(TOPICS)
    deployed = load_text(tmp_path, site="skin")
    assert deployed.site == "skin"
    assert deployed.train.inputs.digest() == load_text(tmp_path, 2, 3).train.inputs.digest()
    assert load_text(tmp_path / "skin.csv", site="ward-7").site == "ward-7"
    assert load_text(tmp_path, site="ward-7", file="skin.csv").site == "ward-7"
    with pytest.raises(UserError, match="'num-supernodes=3'"):
        load_text(tmp_path, index=3, count=4)
    with pytest.raises(UserError, match=r"3 \.csv files, none of them ward-7\.csv"):
        load_text(tmp_path, site="ward-7")
    with pytest.raises(UserError, match=r"none of them this site\.csv"):
        load_text(tmp_path)
    with pytest.raises(UserError, match=r"a file, and data\.file names.*data\.file=null"):
        load_text(tmp_path / "skin.csv", site="ward-7", file="skin.csv")


def test_classes_are_those_configured(notes, load_text) -> None:
    chosen = {"classes": {"label": ["second", "third", "first"]}}
    assert load_text(notes, **chosen).classes == ("second", "third", "first")
    with pytest.raises(UserError, match=r"all\.csv, line 2: class 'first' is not among.*'firs'"):
        load_text(notes, classes={"label": ["firs", "second"]})
    with pytest.raises(UserError, match="no task 'label'"):
        load_text(notes, classes={"lable": ["first", "second"]})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b",first,now,skin", "line 3: the column 'text' is empty"),
        (b"  ,first,now,skin", "line 3: the column 'text' is empty"),
        (b"\x01\x02,first,now,skin", "line 3: the tokenizer makes no token of the text"),
        (b"cough,first,now", "line 3: 3 cells, but the header has 4"),
        (b'"cough,first,now,skin', "cannot be read after line 2"),
        (b'"cough"x,first,now,skin', "cannot be read after line 2"),
        (b"cough \xff,first,now,skin", "not UTF-8 after line"),
        (b"cough" * 30_000 + b",first,now,skin", "cannot be read after line 2 .*field limit"),
    ],
)
def test_a_wrong_row_is_reported_with_its_line(notes, load_text, row, message) -> None:
    content = f"{HEADER}\ncough,first,now,skin\n".encode() + row
    (notes / "all.csv").write_bytes(content + b"\nfever,second,now,skin\n")
    with pytest.raises(UserError, match=message) as error:
        load_text(notes)
    assert "all.csv" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column 'text'"),
        ("texts,label\n", "no column 'text'; there is 'texts'"),
        ("text,labels\n", "no column 'label'; there is 'labels'"),
        ("text,label,text\n", "names a column twice"),
        ("text,label\n", "no text has a label in column 'label'"),
        ("text,label\ncough,\n", "no text has a label"),
        ("text,label\ncough,first\n", "two classes or more"),
        ("text,label,split\ncough,first,night\n", "line 2: split 'night' is not train"),
        ("text,label\nzug,first\nbahn,second\n", "knows no word of these texts"),
        ("text,label\n" + "cough,first\nfever,second\n" * 2, "no examples in validation"),
    ],
)
def test_a_wrong_file_is_reported(notes, load_text, content, message) -> None:
    (notes / "all.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_text(notes)


def test_too_many_texts_are_reported_before_memory_is_taken(notes, load_text, monkeypatch) -> None:
    (notes / "all.csv").write_text(f"{HEADER}\n" + "cough,first,now,skin\n" * 40)
    with pytest.raises(UserError, match=r"line 34: more than 32 texts.*data\.memory_mb"):
        load_text(notes, memory_mb=1, length=8192)
    monkeypatch.setattr("client_app.data.tables.LARGEST", 100)
    with pytest.raises(UserError, match=r"all\.csv: larger than"):
        load_text(notes)


def test_files_outside_or_missing_are_reported(notes, tmp_path, load_text) -> None:
    for name in ("none.csv", "../notes/all.csv", "/etc/passwd"):
        with pytest.raises(UserError, match=r"data\.file"):
            load_text(notes, file=name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no \.csv file"):
        load_text(tmp_path / "empty")
    (tmp_path / "empty" / "all.csv").symlink_to(notes / "all.csv")
    with pytest.raises(UserError, match="a link that leaves"):
        load_text(tmp_path / "empty")


def test_options_out_of_range_are_reported(notes, load_text) -> None:
    for changes, message in [
        ({"length": 0}, r"data\.length"),
        ({"length": 2}, r"data\.length: 2 tokens, of which 2 are special"),
        ({"memory_mb": 0}, r"data\.memory_mb"),
        ({"tasks": []}, r"data\.tasks"),
        ({"test_fraction": 0.95}, "leaves nothing to train on"),
        ({"folder": "../tiny-bert"}, "is not the name of a folder"),
        ({"folder": "large-bert"}, "no folder 'large-bert' in .*models-dir"),
    ]:
        with pytest.raises(UserError, match=message):
            load_text(notes, **changes)


def test_a_tokenizer_of_another_model_is_reported(notes, models_dir, load_text) -> None:
    tiny_bert(models_dir, WORDS, name="short", vocab_size=8)
    with pytest.raises(UserError, match=r"all\.csv, line \d+: the tokenizer gives the id 1\d, .*7"):
        load_text(notes, folder="short")
    digest = tokenizer_digest(read_tokenizer(models_dir / "tiny-bert"))
    assert load_text(notes, tokenizer=digest).task == "label"
    tiny_bert(models_dir, WORDS[::-1], name="other")
    with pytest.raises(UserError, match=rf"data\.tokenizer is {digest}: all sites need the same"):
        load_text(notes, folder="other", tokenizer=digest)
    cased = tiny_bert(models_dir, WORDS, name="cased")
    (cased / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    )
    with pytest.raises(UserError, match=rf"data\.tokenizer is {digest}"):
        load_text(notes, folder="cased", tokenizer=digest)


PARTS = [
    b"text,label\n",
    b"cough,first\n",
    b"fever,second\n",
    b'"knee, hip",first\n',
    b'"rash\nitch",second\n',
    b"[CLS],first\n",
    b",first\n",
    b'"',
    b"\r",
    b"\x00",
    b"\xff\xfe",
    b"\xe2\x80\xae,first\n",
    b"\xf0\x9f\xa4\x92 cough,second\n",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(PARTS) | st.binary(max_size=12), max_size=12))
def test_any_bytes_give_ids_of_the_vocabulary_or_a_user_error(notes, load_text, parts) -> None:
    whole = b"text,label\n" + b"cough,first\nfever,second\n" * 10 + b"".join(parts)
    (notes / "all.csv").write_bytes(whole if len(parts) % 2 else b"".join(parts))
    with contextlib.suppress(UserError):
        data = load_text(notes)
        for split in (data.train, data.validation, data.test):
            assert split.inputs.ids.shape == (len(split), 8)
            assert split.inputs.ids.min() >= 0
            assert split.inputs.ids.max() < 5 + len(WORDS)
            assert split.labels.max() < len(data.classes)
