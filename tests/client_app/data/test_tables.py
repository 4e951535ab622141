"""A CSV file is read row by row, and every mistake is reported with its line."""

from __future__ import annotations

import pytest

from client_app.data import tables
from client_app.data.tables import TableFormat, describe_line, header_of, row_split, table_rows
from fedstrata.support.errors import UserError


@pytest.fixture
def read(tmp_path):
    def rows(content: bytes, *columns: str, **written) -> list[tuple[int, dict[str, str]]]:
        (tmp_path / "a.csv").write_bytes(content)
        wanted = columns or ("text", "label")
        return list(table_rows(tmp_path / "a.csv", wanted, TableFormat(**written)))

    return rows


def test_rows_have_their_line_and_cells_without_blanks(read) -> None:
    content = '\ufefflabel , text,more\n\na, b ,c\n"d","e\nf",\n'.encode()
    assert read(content) == [
        (3, {"label": "a", "text": "b", "more": "c"}),
        (5, {"label": "d", "text": "e\nf", "more": ""}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column 'text'"),
        (b"texts,label\n", "no column 'text'; there is 'texts'"),
        (b"text,label,text\n", "names a column twice: 'text'; rename or remove one"),
        (b"PK\x03\x04xl/workbook.xml", "is an Excel workbook or a ZIP archive, not text; save it"),
        (b"\xd0\xcf\x11\xe0 old", "is an old Excel workbook"),
        (b"\x1f\x8b\x08", "is compressed by gzip"),
        (b"PAR1", "is a Parquet file, not text"),
        (b"text,label\na,b\nc\n", "line 3: 1 cells, but the header has 2"),
        (b'text,label\n"a,b\n', "cannot be read after line 1"),
        (b'text,label\na,b\n"c"d,e\n', "cannot be read after line 2"),
        (b"text,label\na\xff,b\n", "is not UTF-8 after line 1"),
        (b"text,label\n" + b"a" * 200_000 + b",b\n", "cannot be read after line 1 .*field limit"),
    ],
)
def test_a_wrong_file_is_reported(read, content, message) -> None:
    with pytest.raises(UserError, match=rf"a\.csv.*{message}"):
        read(content)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiter_and_encoding_are_found(read, delimiter, encoding) -> None:
    content = "text,label\nÖdem,b\n".replace(",", delimiter).encode(encoding)
    assert read(content) == [(2, {"text": "Ödem", "label": "b"})]


def test_delimiter_and_encoding_can_be_given(read) -> None:
    assert read(b"text:label\nx\xd6:b\n", delimiter=":", encoding="cp1252")[0][1]["text"] == "xÖ"
    with pytest.raises(UserError, match=r"is not UTF-8 .*data\.encoding=cp1252"):
        read("text,label\nÖ,b\n".encode("cp1252"))
    for wrong in ({"delimiter": ""}, {"delimiter": '"'}, {"encoding": "zip"}, {"encoding": "x y"}):
        with pytest.raises(UserError, match=r"data\.(delimiter|encoding)"):
            read(b"text,label\n", **wrong)


def test_the_line_of_excel_before_the_header_is_skipped(read) -> None:
    assert read(b"sep=;\r\ntext;label\r\na,b;c\r\n") == [(3, {"text": "a,b", "label": "c"})]


def test_names_of_columns_are_composed_and_the_nearest_is_named(read, tmp_path) -> None:
    assert read("text,O\u0308dem,,\na,1,,\n".encode(), "Ödem")[0][1]["\u00d6dem"] == "1"
    with pytest.raises(UserError, match="no column 'text'; there is 'TEXT'"):
        read(b"TEXT,label\n")
    assert header_of(tmp_path / "a.csv") == []


def test_a_large_file_is_rejected_before_it_is_read(read, monkeypatch) -> None:
    monkeypatch.setattr(tables, "LARGEST", 20)
    assert read(b"text,label\na,b\n")
    with pytest.raises(UserError, match="larger than"):
        read(b"text,label\n" + b"a,b\n" * 3)


def test_the_header_of_a_file_without_one_does_not_leave(read) -> None:
    with pytest.raises(UserError, match="Ann Lee") as raised:
        read(b"Ann Lee,cough\n")
    assert raised.value.public == "a file in the data folder: no column 'text'"


def test_a_row_may_name_its_split(tmp_path) -> None:
    line = describe_line(tmp_path / "a.csv", 7)
    assert row_split({"text": "a"}, line) is None
    names = ("train", "validation", "val", "test")
    assert [row_split({"split": name}, line) for name in names] == [
        "train",
        "validation",
        "validation",
        "test",
    ]
    with pytest.raises(UserError, match=r"a\.csv, line 7: split 'night' is not train"):
        row_split({"split": "night"}, line)
