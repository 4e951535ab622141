"""Folders of pictures: listing, classes, splits, shares; wrong files are reported before training."""

from __future__ import annotations

import contextlib
import io
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from client_app.data import SiteInfo, load, pictures
from client_app.data.pictures import PictureCache, PictureInputs, decode_square
from fedstrata.support.errors import UserError
from tests.helpers.data_files import encoded, fill, picture

SMALL = {"size": 8}
NOWHERE = SiteInfo(site=None, task=None, index=None, count=None, root=None)


@pytest.fixture
def folders(tmp_path) -> Path:
    root = tmp_path / "pictures"
    fill(root / "cat", 0, 20)
    fill(root / "dog", 20, 30)
    return root


@pytest.fixture
def manifest(folders) -> Path:
    rows = ["path,animal,age,ward"]
    for path in sorted(folders.rglob("*.*")):
        number = int(path.stem)
        age = ("young", "old", "")[number % 3]
        rows.append(f"{path.relative_to(folders)},{path.parent.name},{age},w{number % 2}")
    (folders / "all.csv").write_text("\n".join(rows), encoding="utf-8")
    return folders


def files(data) -> list[set[str]]:
    return [
        {path.name for path in split.inputs.paths}
        for split in (data.train, data.validation, data.test)
    ]


def test_class_folders_become_a_task(folders, options, info) -> None:
    data = load("images", options("images", **SMALL), info(root=folders, site="north"), seed=1)
    assert (data.site, data.task) == ("north", "label")
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (3, 8, 8)
    assert [
        np.bincount(part.labels).tolist() for part in (data.train, data.validation, data.test)
    ] == [[14, 21], [2, 3], [4, 6]]  # 20 cats and 30 dogs: 10 % and 20 % of each
    assert data.train.inputs.batch(np.arange(5)).shape == (5, 3, 8, 8)
    for path, label in zip(data.test.inputs.paths, data.test.labels, strict=True):
        assert path.parent.name == data.classes[label]


def test_hidden_folders_are_no_examples(folders, options, info) -> None:
    """Programs keep originals and thumbnails there: other bytes of the same pictures."""
    for hidden in (".thumbnails", "ward/.originals"):
        fill(folders / "cat" / hidden, 60, 5)
    data = load("images", options("images", **SMALL), info(root=folders), seed=1)
    assert sum(map(len, files(data))) == 50


def test_splits_are_disjoint_cover_everything_and_follow_the_seed(folders, options, info) -> None:
    def drawn(seed: int) -> list[set[str]]:
        return files(load("images", options("images", **SMALL), info(root=folders), seed))

    first = drawn(1)
    assert sum(map(len, first)) == len(set().union(*first)) == 50
    assert drawn(1) == first
    assert drawn(2) != first


def test_copies_of_a_picture_stay_on_one_side(folders, options, info) -> None:
    for path in sorted((folders / "cat").iterdir()):
        shutil.copy(path, folders / "cat" / f"copy-of-{path.name}")
    for seed in range(5):
        data = load("images", options("images", **SMALL), info(root=folders), seed)
        sides = [set(split.inputs.digests) for split in (data.train, data.validation, data.test)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]


def test_given_splits_are_kept_and_the_missing_one_is_drawn(tmp_path, options, info) -> None:
    for split, first, many in (("train", 0, 20), ("val", 40, 4), ("test", 60, 6)):
        fill(tmp_path / split / "cat", first, many)
        fill(tmp_path / split / "dog", first + 20, many)
    data = load("images", options("images", **SMALL), info(root=tmp_path), seed=1)
    for part, name in ((data.train, "train"), (data.validation, "val"), (data.test, "test")):
        assert {path.parent.parent.name for path in part.inputs.paths} == {name}
    assert [len(data.train), len(data.validation), len(data.test)] == [40, 8, 12]
    shutil.rmtree(tmp_path / "val")
    data = load("images", options("images", **SMALL), info(root=tmp_path), seed=1)
    assert [len(data.train), len(data.validation), len(data.test)] == [36, 4, 12]
    assert {path.parent.parent.name for path in data.validation.inputs.paths} == {"train"}


def test_a_manifest_holds_several_tasks(manifest, options, info) -> None:
    chosen = options("images", **SMALL, manifest="all.csv", tasks=["animal", "age"])
    sites = [
        load("images", chosen, info(index=index, count=4, root=manifest), seed=1)
        for index in range(4)
    ]
    assert [data.task for data in sites] == ["animal", "age"] * 2
    assert sites[1].classes == ("old", "young")
    animals = [set().union(*files(data)) for data in sites[::2]]
    ages = [set().union(*files(data)) for data in sites[1::2]]
    assert not animals[0] & animals[1]
    assert len(animals[0] | animals[1]) == 50
    assert not ages[0] & ages[1]
    assert len(ages[0] | ages[1]) == 34  # a third have an empty cell, and are left out
    deployed = load("images", chosen, info(root=manifest, task="age"), seed=1)
    assert sum(map(len, files(deployed))) == 34
    with pytest.raises(UserError, match="name this site's own in its node config"):
        load("images", chosen, info(root=manifest), seed=1)


def test_a_manifest_can_give_splits_and_wards(manifest, options, info) -> None:
    lines = (manifest / "all.csv").read_text().splitlines()
    given = ["train", "train", "train", "validation", "test"]
    rows = [f"{line},{given[number % 5]}" for number, line in enumerate(lines[1:])]
    (manifest / "all.csv").write_text("\n".join([lines[0] + ",split", *rows]), encoding="utf-8-sig")
    natural = {**options("images")["partition"], "scheme": "natural", "column": "ward"}
    chosen = options("images", **SMALL, manifest="all.csv", task="animal", partition=natural)
    for index in range(2):
        data = load("images", chosen, info(index=index, count=2, root=manifest), seed=1)
        assert [len(data.train), len(data.validation), len(data.test)] == [15, 5, 5]
        assert {int(name[:3]) % 2 for part in files(data) for name in part} == {index}


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "pathological", "linear"])
def test_sites_of_a_simulation_share_a_folder(folders, options, info, scheme) -> None:
    partition = {
        **options("images")["partition"],
        "scheme": scheme,
        "alpha": 5.0,
        "classes_per_site": 1,
    }
    chosen = options("images", **SMALL, partition=partition)
    names_of_sites = [
        set().union(*files(load("images", chosen, info(i, 3, folders), seed=1))) for i in range(3)
    ]
    assert len(set().union(*names_of_sites)) == sum(map(len, names_of_sites)) == 50


@pytest.fixture
def domains(tmp_path) -> Path:
    """Return a tree as that of PACS: domains, and in each the class folders."""
    root = tmp_path / "pacs"
    for number, domain in enumerate(("sketch", "photo", "cartoon")):
        fill(root / domain / "dog", 100 * number, 10)
        fill(root / domain / "house", 100 * number + 50, 20)
    return root


def by_domain(options, scheme: str = "domain", **changes: object) -> dict[str, object]:
    partition = {**options("images")["partition"], "scheme": scheme}
    return options("images", **SMALL, domains=True, partition=partition, **changes)


def test_folders_of_domains_are_shared_out_by_domain(domains, options, info) -> None:
    sites = [
        load("images", by_domain(options), info(index=i, count=5, root=domains), seed=1)
        for i in range(5)
    ]
    paths = [{p for s in (d.train, d.validation, d.test) for p in s.inputs.paths} for d in sites]
    assert [{path.parent.parent.name for path in one} for one in paths] == [
        {"cartoon"},
        {"photo"},
        {"sketch"},
        {"cartoon"},
        {"photo"},
    ]
    assert [len(one) for one in paths] == [15, 15, 30, 15, 15]
    assert len(set().union(*paths)) == 90
    assert {data.classes for data in sites} == {("dog", "house")}
    for i, domain in enumerate(("cartoon", "photo", "sketch")):
        natural = by_domain(options, "natural")
        data = load("images", natural, info(index=i, count=3, root=domains), seed=1)
        assert {path.parent.parent.name for path in data.train.inputs.paths} == {domain}
    with pytest.raises(UserError, match=r"has 3 values for 4 sites.*scheme=domain"):
        load("images", by_domain(options, "natural"), info(0, 4, domains), seed=1)
    alone = load("images", by_domain(options), info(root=domains, site="north"), seed=1)
    assert len(alone.train) + len(alone.validation) + len(alone.test) == 90


def test_a_manifest_s_column_can_be_shared_by_several_sites(manifest, options, info) -> None:
    partition = {**options("images")["partition"], "scheme": "domain", "column": "ward"}
    chosen = options("images", **SMALL, manifest="all.csv", task="animal", partition=partition)
    names_of_sites = [
        set().union(*files(load("images", chosen, info(i, 4, manifest), seed=1))) for i in range(4)
    ]
    assert len(set().union(*names_of_sites)) == sum(map(len, names_of_sites)) == 50
    for index, names in enumerate(names_of_sites):
        assert {int(name[:3]) % 2 for name in names} == {index % 2}


def test_domains_may_hold_splits(domains, options, info) -> None:
    for domain in ("sketch", "photo", "cartoon"):
        (domains / domain / "train").mkdir()
        for kind in ("dog", "house"):
            (domains / domain / kind).rename(domains / domain / "train" / kind)
            fill(domains / domain / "test" / kind, 300 + len(domain + kind), 3)
    data = load("images", by_domain(options), info(index=1, count=3, root=domains), seed=1)
    assert len(data.test) == 6
    for part, name in ((data.train, "train"), (data.validation, "train"), (data.test, "test")):
        assert {path.parts[-4:-2] for path in part.inputs.paths} == {("photo", name)}


def test_wrong_trees_of_domains_are_reported(domains, tmp_path, options, info) -> None:
    def check(match: str, index: int = 0) -> None:
        here = info(index=index, count=3, root=domains)
        with pytest.raises(UserError, match=match):
            load("images", by_domain(options), here, seed=1)

    def link(where: Path, target: Path, match: str) -> None:
        where.symlink_to(target)
        check(match)
        where.unlink()

    fill(tmp_path / "secret" / "dog", 90, 1)
    link(domains / "art", tmp_path / "secret", "art is a link that leaves")
    link(domains / "photo" / "cat", tmp_path / "secret" / "dog", "cat is a link that leaves")
    secret = tmp_path / "secret" / "dog" / "090.png"
    link(domains / "photo" / "dog" / "x.png", secret, r"x\.png is a link that leaves")
    loop = domains / "photo" / "dog" / "loop.png"
    link(loop, loop, r"loop\.png")
    picture(1).save(domains / "stray.png")
    check(r"stray\.png: lies beside")
    (domains / "stray.png").rename(domains / "photo" / "stray.png")
    check(r"photo/stray\.png: lies beside the class folders")
    (domains / "photo" / "stray.png").unlink()
    (domains / "art").mkdir()
    check("art: has no class folders; put pictures into .*art/<class>/")
    (domains / "art" / "dog").mkdir()
    check("art/dog: no pictures in this class folder")
    shutil.rmtree(domains / "art")
    (domains / "cartoon" / "dog" / "000.png").write_bytes(b"no picture")
    check(r"cartoon/dog/000\.png: not a readable picture")
    (domains / "cartoon").rename(domains / "train")
    check("train: is the name of a split, not of a domain")
    shutil.rmtree(domains)
    domains.mkdir()
    check("has no domain folders")


def test_classes_are_those_configured(folders, options, info) -> None:
    def classes(**named):
        chosen = options("images", **SMALL, classes=named)
        return load("images", chosen, info(root=folders), seed=1).classes

    assert classes(label=["dog", "bird", "cat"]) == ("dog", "bird", "cat")
    with pytest.raises(UserError, match=r"class 'dog' is not among data\.classes.*'dig'"):
        classes(label=["cat", "dig"])
    with pytest.raises(UserError, match="no task 'label'"):
        classes(lable=["cat", "dog"])
    with pytest.raises(UserError, match="each once"):
        classes(label=["cat", "cat", "dog"])
    shutil.rmtree(folders / "dog")
    with pytest.raises(UserError, match="two classes or more"):
        load("images", options("images", **SMALL), info(root=folders), seed=1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../secret.png,cat,old,w0", "line 3: '../secret.png' must be a path inside"),
        ("cat/../../secret.png,cat,old,w0", "without '..'"),
        ("/etc/passwd,cat,old,w0", "line 3: '/etc/passwd' must be a path inside"),
        (",cat,old,w0", "line 3: '' must be"),
        ("cat/\0.png,cat,old,w0", "line 3"),
        (f"{'x' * 5000},cat,old,w0", "line 3"),
        ("cat/none.png,cat,old,w0", "line 3: there is no file 'cat/none.png'"),
        ("cat,cat,old,w0", "there is no file 'cat'"),
        ("cat/000.png,cat,old,w0", "line 3: 'cat/000.png' is listed twice"),
        ("cat/002.png,cat,old", "line 3: 3 cells, but the header has 4"),
        ('cat/002.png,"cat,old,w0', "cannot be read"),
    ],
)
def test_a_wrong_row_is_reported_with_its_line(manifest, options, info, row, message) -> None:
    picture(1).save(manifest.parent / "secret.png")
    header = "path,animal,age,ward\ncat/000.png,cat,old,w0\n"
    (manifest / "all.csv").write_text(header + row, encoding="utf-8")
    chosen = options("images", **SMALL, manifest="all.csv", task="animal")
    with pytest.raises(UserError, match=message) as error:
        load("images", chosen, info(root=manifest), seed=1)
    assert "all.csv" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,animals\n", "no column 'animal'; there is 'animals'"),
        ("file,animal\n", "no column 'path'"),
        ("path,animal,animal\n", "a column twice"),
        ("", "no column 'path'"),
        ("path,animal\n", "no picture has a label"),
        ("path,animal,split\ncat/000.png,cat,dev\n", "line 2: split 'dev' is not train"),
        (b"path,animal\ncat/000.png,\xff\xfe\n", "save it as UTF-8"),
    ],
)
def test_a_wrong_manifest_is_reported(folders, options, info, content, message) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (folders / "all.csv").write_bytes(raw)
    chosen = options("images", **SMALL, manifest="all.csv", task="animal")
    with pytest.raises(UserError, match=message) as error:
        load("images", chosen, info(root=folders), seed=1)
    assert "all.csv" in str(error.value)


def test_a_manifest_outside_or_missing_is_reported(folders, options, info) -> None:
    for name in ("none.csv", "../all.csv", "/etc/passwd"):
        with pytest.raises(UserError, match=r"data\.manifest"):
            load("images", options("images", manifest=name), info(root=folders), seed=1)


def test_links_that_leave_the_root_are_rejected(folders, tmp_path, options, info) -> None:
    fill(tmp_path / "secret" / "cat", 90, 1)
    for link, target in [
        (folders / "cat" / "link.png", tmp_path / "secret" / "cat" / "090.png"),
        (folders / "bird", tmp_path / "secret" / "cat"),
    ]:
        link.symlink_to(target)
        with pytest.raises(UserError, match="a link that leaves"):
            load("images", options("images", **SMALL), info(root=folders), seed=1)
        link.unlink()
    (folders / "out.csv").symlink_to(tmp_path / "out.csv")
    (tmp_path / "out.csv").write_text("path,label\n")
    with pytest.raises(UserError, match="a link that leaves"):
        load("images", options("images", manifest="out.csv"), info(root=folders), seed=1)
    (folders / "cat" / "loop.png").symlink_to(folders / "cat" / "loop.png")
    with pytest.raises(UserError, match=r"loop\.png"):
        load("images", options("images", **SMALL), info(root=folders), seed=1)


def test_layouts_that_cannot_be_meant_are_reported(folders, tmp_path, options, info) -> None:
    def check(match: str) -> None:
        with pytest.raises(UserError, match=match):
            load("images", options("images", **SMALL), info(root=folders), seed=1)

    (folders / "bird").mkdir()
    check("bird: no pictures in this class folder")
    (folders / "bird").rmdir()
    picture(1).save(folders / "stray.png")
    check(r"stray\.png: lies beside the class folders")
    (folders / "stray.png").unlink()
    fill(folders / "train" / "cat", 0, 2)
    check("'train' holds class folders but 'cat' is not such a split")
    shutil.rmtree(folders)
    folders.mkdir()
    check("has no class folders")


def test_options_out_of_range_are_reported(folders, options, info) -> None:
    unnamed = {**options("images")["partition"], "scheme": "domain"}
    by_ward = {**unnamed, "column": "ward"}
    for changes, message in [
        ({"size": 0}, r"data\.size"),
        ({"mean": [0.5]}, r"data\.mean: 3 numbers"),
        ({"std": [1.0, 1.0, 0.0]}, r"data\.std"),
        ({"test_fraction": 0.95}, "leaves nothing to train on"),
        ({"memory_mb": -1}, r"data\.memory_mb"),
        ({"tasks": ["age"]}, "need a manifest"),
        ({"task": None}, r"data\.task: name the task"),
        ({"domains": True, "manifest": "all.csv"}, r"data\.domains: is for folders"),
        ({"domains": True, "partition": by_ward}, r"data\.partition\.column=null"),
        ({"manifest": "all.csv", "partition": unnamed}, r"data\.partition\.column: name"),
    ]:
        with pytest.raises(UserError, match=message):
            load("images", options("images", **changes), info(root=folders), seed=1)
    with pytest.raises(UserError, match="must be a folder"):
        load("images", options("images"), info(root=folders / "cat" / "000.png"), seed=1)


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header claims this size; its data are those of one pixel."""
    import zlib

    memory = io.BytesIO()
    Image.new("RGB", (1, 1)).save(memory, "PNG")
    content = bytearray(memory.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


PCX = encoded(picture(0), "PCX")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable picture"),
        (b"no picture at all", "not a readable picture"),
        (png(60_000, 60_000), "not a readable picture"),  # Pillow's own limit
        (png(9_000, 9_000), "9000 x 9000 pixels are more than"),
        (png(100, 100), "not a readable picture"),
        (EPS, "not a readable picture"),
        (PCX, "not a readable picture"),  # Pillow could read it; it is not among our formats
    ],
)
def test_a_bad_picture_is_reported_before_training(
    folders, options, info, content, message
) -> None:
    (folders / "cat" / "bad.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.png: .*{message}|bad\.png: {message}"):
        load("images", options("images", **SMALL), info(root=folders), seed=1)


def test_a_truncated_picture_is_reported(folders, options, info) -> None:
    path = folders / "dog" / "021.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"021\.jpg: not a readable picture"):
        load("images", options("images", **SMALL), info(root=folders), seed=1)


def test_the_central_square_is_cut_and_scaled() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = (255, 128, 0)
    square = decode_square(Path("a.png"), encoded(Image.fromarray(pixels)), 16)
    assert square.shape == (16, 16, 3)
    assert (square == (255, 128, 0)).all()


def test_grey_wide_and_transparent_pictures_become_rgb() -> None:
    gray = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    wide = Image.fromarray(gray.astype(np.uint16) * 256)
    for image in (Image.fromarray(gray), wide, Image.fromarray(gray).convert("RGBA")):
        square = decode_square(Path("a.png"), encoded(image), 8)
        assert (square == gray[..., None]).all()
    maximum = 65535
    pgm = f"P5 8 8 {maximum}\n".encode() + (gray.astype(np.uint16) * 256).astype(">u2").tobytes()
    assert (decode_square(Path("a.pgm"), pgm, 8) == gray[..., None]).all()
    deep = Image.fromarray(np.zeros((4, 4), np.float32))
    with pytest.raises(UserError, match="32 bits per pixel"):
        decode_square(Path("a.tif"), encoded(deep, "TIFF"), 8)


def cached_inputs(folder: Path, memory: int) -> PictureInputs:
    paths = tuple(sorted(folder.iterdir()))
    cache = PictureCache(8, memory)
    return PictureInputs(paths, cache.examine(paths), cache, (0.5,) * 3, (0.25,) * 3)


def test_memory_is_bounded_and_changes_nothing(folders) -> None:
    square = 8 * 8 * 3
    whole, some, none = (
        cached_inputs(folders / "cat", memory) for memory in (1 << 20, 5 * square, 0)
    )
    assert [len(inputs.cache.kept) for inputs in (whole, some, none)] == [20, 5, 0]
    order = np.array([19, 0, 7, 7])
    batch = whole.batch(order)
    assert batch.equal(some.batch(order))
    assert batch.equal(none.batch(order))
    first = decode_square(whole.paths[19], whole.paths[19].read_bytes(), 8)
    assert np.allclose(batch[0].numpy(), (first.transpose(2, 0, 1) / 255 - 0.5) / 0.25, atol=1e-6)


def test_the_digest_follows_content_order_and_preparation(folders) -> None:
    inputs = cached_inputs(folders / "cat", 0)
    same = cached_inputs(folders / "cat", 1 << 20)
    turned = PictureInputs(
        inputs.paths, inputs.digests[::-1], inputs.cache, inputs.mean, inputs.std
    )
    larger = PictureInputs(
        inputs.paths, inputs.digests, PictureCache(9, 0), inputs.mean, inputs.std
    )
    brighter = PictureInputs(inputs.paths, inputs.digests, inputs.cache, (0.4,) * 3, inputs.std)
    assert inputs.digest() == same.digest()
    digests = {one.digest() for one in (inputs, turned, larger, brighter)}
    assert len(digests) == 4
    picture(77).save(folders / "cat" / "000.png")
    assert cached_inputs(folders / "cat", 0).digest() not in digests


def test_a_file_that_changes_during_the_run_is_reported(folders) -> None:
    inputs = cached_inputs(folders / "cat", 0)
    picture(77).save(folders / "cat" / "000.png")
    with pytest.raises(UserError, match=r"000\.png: has changed"):
        inputs.batch(np.array([0]))
    (folders / "cat" / "000.png").unlink()
    with pytest.raises(UserError, match=r"000\.png: cannot be read"):
        inputs.batch(np.array([0]))


FORMS = [encoded(picture(0), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
)
def test_damaged_pictures_give_a_square_or_a_user_error(content, cut, changes) -> None:
    damaged = bytearray(content[: int(cut * len(content))])
    for where, value in changes:
        if damaged:
            damaged[int(where * (len(damaged) - 1))] = value
    with contextlib.suppress(UserError):
        assert decode_square(Path("a.png"), bytes(damaged), 8).shape == (8, 8, 3)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.sampled_from(
            [
                "path,animal,split\n",
                "cat/000.png,cat,train\n",
                "dog/020.png,dog,test\n",
                "../x,cat,\n",
                '"',
                ",",
                "\n",
                "\r",
                "\0",
                "é",
                "\ud7ff",
                "cat/000.png",
                "path",
                "\x1c",
            ]
        ),
        max_size=6,
    ).map("".join)
)
def test_any_manifest_gives_data_or_a_user_error(folders, options, content) -> None:
    (folders / "all.csv").write_text(content, encoding="utf-8", newline="")
    chosen = options("images", **SMALL, manifest="all.csv", task="animal")
    here = SiteInfo(site=None, task=None, index=None, count=None, root=folders)
    with contextlib.suppress(UserError):
        load("images", chosen, here, seed=1)


def test_real_pictures_of_four_domains(real, tmp_path, options, info) -> None:
    with zipfile.ZipFile(real("pacs_subset.zip")) as archive:
        names = [name for name in archive.namelist() if name.split("/")[-2] in ("dog", "horse")]
        archive.extractall(tmp_path, names)
    rows = [f"{name},{name.split('/')[2]},{name.split('/')[1]}" for name in names]
    (tmp_path / "pacs.csv").write_text("\n".join(["path,kind,domain", *rows]))
    natural = {**options("images")["partition"], "scheme": "natural", "column": "domain"}
    chosen = options("images", size=32, manifest="pacs.csv", task="kind", partition=natural)
    for index, domain in enumerate(("art_painting", "cartoon", "photo", "sketch")):
        data = load("images", chosen, info(index=index, count=4, root=tmp_path), seed=1)
        assert [len(data.train), len(data.validation), len(data.test)] == [84, 12, 24]
        assert {path.parts[-3] for path in data.train.inputs.paths} == {domain}


def test_real_pictures_of_four_domains_as_they_are(real, tmp_path, options, info) -> None:
    with zipfile.ZipFile(real("pacs_subset.zip")) as archive:
        names = [name for name in archive.namelist() if name.split("/")[-2] in ("dog", "horse")]
        archive.extractall(tmp_path, names)
    root = tmp_path / names[0].split("/")[0]
    chosen = {**by_domain(options), "size": 32}
    for index, domain in enumerate(("art_painting", "cartoon", "photo", "sketch")):
        data = load("images", chosen, info(index=index, count=4, root=root), seed=1)
        assert [len(data.train), len(data.validation), len(data.test)] == [84, 12, 24]
        assert {path.parts[-3] for path in data.train.inputs.paths} == {domain}


@pytest.mark.parametrize(("of_torch", "decode"), [(1, 1), (3, 3), (9, 4)])
def test_decoding_keeps_to_the_threads_of_the_site(folders, monkeypatch, of_torch, decode) -> None:
    pool, seen = pictures.ThreadPoolExecutor, []

    def watched(workers: int) -> ThreadPoolExecutor:
        seen.append(workers)
        return pool(workers)

    monkeypatch.setattr(pictures, "ThreadPoolExecutor", watched)
    torch.set_num_threads(of_torch)  # as the site's `threads` does; tests/conftest.py puts it back
    cache, paths = PictureCache(size=8, memory=0), sorted(folders.rglob("*.png"))
    cache.squares(paths, cache.examine(paths))
    assert seen == [decode, decode]
