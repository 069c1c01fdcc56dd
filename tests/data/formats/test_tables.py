"""CSV files of labels: what is read, against csv and Counter; what is refused, and how it is said."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailwise.data.dataset import Dataset, require_images
from tailwise.errors import InputError
from tests.formats import read_csv


def write(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def animals(tmp_path: Path) -> Dataset:
    text = "image,split,labels\na.jpg,train,dog|cat\nb.jpg,train,\nc.jpg,test,cat\nd.jpg,,bird\n"
    return read_csv(write(tmp_path, text))


def test_label_lists_become_a_matrix_over_sorted_names(animals: Dataset, tmp_path: Path) -> None:
    assert animals.class_names == ("bird", "cat", "dog")
    assert animals.targets.dtype == np.int8
    assert animals.targets.tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert animals.splits == ("train", "train", "test", "")
    assert animals.lines == (2, 3, 4, 5)
    assert animals.paths() == [tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")]


def test_photos_match_an_independent_count(photos: Path) -> None:
    data = read_csv(photos, classes=photos.with_name("classes.json"))
    names = json.loads(photos.with_name("classes.json").read_text())
    assert list(data.class_names) == names
    counts: dict[str, Counter[str]] = {}
    sizes: Counter[str] = Counter()
    with photos.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sizes[row["split"]] += 1
            counts.setdefault(row["split"], Counter()).update(label for label in row["labels"].split("|") if label)
    assert set(sizes) == {"train_lt", "test", "pool", "unused"}
    assert len(data) == 30_000
    for split, size in sizes.items():
        part = data.select(split)
        assert len(part) == size
        assert part.targets.sum(axis=0, dtype=int).tolist() == [counts[split][name] for name in names]
    groups = data.select("train_lt").stats().groups
    assert {name: len(members) for name, members in groups.items()} == {"head": 5, "medium": 6, "tail": 7}


def test_photos_without_images_are_named_by_line(photos: Path) -> None:
    data = read_csv(photos)
    kept = require_images(data.select("train_lt"))
    assert (len(kept), kept.skipped) == (1205, ())
    mixed = data.subset([*range(5), *np.flatnonzero(np.array(data.splits) == "test")[:3]])
    kept = require_images(mixed, on_error="skip")
    assert set(kept.splits) == {"test"}
    assert len(kept) + len(kept.skipped) == len(mixed)
    assert kept.skipped[0].startswith(f"{photos}:2: no image 'images/0.jpg'")


LABEL = st.text(st.characters(exclude_characters="|\r\n\x00", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text == text.strip()
)


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(LABEL, max_size=4), min_size=1, max_size=8).filter(any),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(ENCODINGS),
    delimiter=st.sampled_from([",", ";", "\t"]),
    columns=st.permutations(["image", "labels", "split", "note"]),
)
def test_any_labels_survive_any_way_of_writing_them(
    tmp_path: Path,
    rows: list[list[str]],
    quoting: int,
    end: str,
    encoding: str,
    delimiter: str,
    columns: list[str],
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, quoting=quoting, lineterminator=end, delimiter=delimiter)  # type: ignore[call-overload]
    writer.writeheader()
    for index, labels in enumerate(rows):
        cells = {"labels": " | ".join([*labels, *labels[:1]]), "note": 'a "note", in; two\nlines', "split": "train"}
        writer.writerow({"image": f"{index}.jpg", **cells})
    data = read_csv(write(tmp_path, buffer.getvalue().encode(encoding)))
    assert data.class_names == tuple(sorted({label for labels in rows for label in labels}))
    assert data.names == tuple(f"{index}.jpg" for index in range(len(rows)))
    read = [{data.class_names[k] for k in np.flatnonzero(row)} for row in data.targets]
    assert read == [set(labels) for labels in rows]
    assert data.splits == ("train",) * len(rows)


CELLS = {1: ["1", "1.0", "True", " 1"], 0: ["0", "0.0", "false"], -1: ["-1", "", "-1.0", "  "]}


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.lists(st.sampled_from([1, 0, -1]), min_size=3, max_size=3), min_size=1, max_size=6),
    columns=st.permutations(["cat", "image", "dog", "split", "cow"]),
    data=st.data(),
)
def test_any_way_of_writing_columns_of_classes(
    tmp_path: Path, cells: list[list[int]], columns: list[str], data: st.DataObject
) -> None:
    classes = [name for name in columns if name not in ("image", "split")]
    rows = []
    for index, values in enumerate(cells):
        written = {name: data.draw(st.sampled_from(CELLS[value])) for name, value in zip(classes, values, strict=True)}
        rows.append({"image": f"{index}.jpg", "split": "", **written})
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns)
    writer.writeheader()
    writer.writerows(rows)
    # Some of these files leave open what -1 and blanks mean.
    read = read_csv(write(tmp_path, buffer.getvalue()), negative="0", blank="unknown")
    assert read.class_names == tuple(classes)
    assert read.targets.tolist() == cells


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), head=st.sampled_from([b"", b"image,labels\na.jpg,cat\n", b"\xff\xfei\0m\0"]))
def test_any_bytes_are_read_or_refused_with_the_file_named(tmp_path: Path, content: bytes, head: bytes) -> None:
    path = write(tmp_path, head + content)
    try:
        data = read_csv(path, on_error="skip")
    except InputError as error:
        assert "labels.csv" in str(error)  # noqa: PT017
    else:
        assert len(data) >= 1
        assert data.targets.shape == (len(data), len(data.class_names))


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        # The first of comma, semicolon and tab that leaves a cell called image.
        ("image,labels\na.jpg,x;y|z\n", ("x;y", "z")),
        ("image;labels\na.jpg;x,y|z\n", ("x,y", "z")),
        ("image\tlabels\na.jpg\tx,y;w|z\n", ("x,y;w", "z")),
        ("labels;note,extra;image\nx|z;a,b;a.jpg\n", ("x", "z")),
        ('"labels"\t"image"\nx\ta.jpg\n', ("x",)),
        ("\n \nlabels; image \nx;a.jpg\n", ("x",)),
        ("file_name;labels\na.jpg;x\n", ("x",)),
    ],
)
def test_the_header_says_what_separates_columns(tmp_path: Path, text: str, classes: tuple[str, ...]) -> None:
    data = read_csv(write(tmp_path, text))
    assert (data.names, data.class_names) == (("a.jpg",), classes)


def test_the_first_of_several_columns_of_images_is_taken(tmp_path: Path) -> None:
    keys = ("image", "file_name", "filename", "image_path", "path", "image_id")
    for place, key in enumerate(keys):
        header = ",".join([*reversed(keys[place:]), "labels"])
        cells = ",".join([*(f"{name}.jpg" for name in reversed(keys[place:])), "x"])
        assert read_csv(write(tmp_path, f"{header}\n{cells}\n")).names == (f"{key}.jpg",)


def test_unknown_labels_stand_in_a_list_of_their_own(tmp_path: Path) -> None:
    data = read_csv(write(tmp_path, "image,unknown,labels\na.jpg,cat| dog,cow\nb.jpg,,cat\nc.jpg,cat,cat\n"))
    assert data.class_names == ("cat", "cow", "dog")
    assert data.targets.tolist() == [[-1, 1, -1], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("cells", ["a.jpg,1", "a.jpg,1,0,1"])
def test_rows_of_another_length_are_left_out(tmp_path: Path, cells: str) -> None:
    path = write(tmp_path, f"image,cat,dog\n{cells}\nb.jpg,0,1\n")
    data = read_csv(path, on_error="skip")
    assert (data.names, data.targets.tolist(), len(data.skipped)) == (("b.jpg",), [[0, 1]], 1)


def test_a_bad_cell_leaves_out_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, "image,cat,dog\na.jpg,1,0\nb.jpg,1,yes\nc.jpg,maybe,no\nd.jpg,TRUE,False\n")
    data = read_csv(path, on_error="skip")
    assert data.targets.tolist() == [[1, 0], [1, 0]]
    assert data.lines == (2, 5)
    assert [message.split(" where")[0].rsplit(": ", 1)[1] for message in data.skipped] == [
        "column 'dog' holds 'yes'",
        "column 'cat' holds 'maybe'",
    ]


def test_twenty_columns_are_listed_and_more_are_dots(tmp_path: Path) -> None:
    for count in (20, 21):
        names = [f"c{k}" for k in range(count)]
        with pytest.raises(InputError) as caught:
            read_csv(write(tmp_path, ",".join(names) + "\n"))
        listed = re.findall(r"'c\d+'", str(caught.value))
        assert len(listed) == 20
        assert ("..." in str(caught.value)) == (count > 20)


def test_classes_and_their_names_are_stripped_and_may_stand_in_an_object(tmp_path: Path) -> None:
    path = write(tmp_path, "image,labels\na.jpg,dog\n")
    for text in ('["cat", " dog "]', '{"class_names": ["cat", "dog"], "more": 1}'):
        data = read_csv(path, classes=write(tmp_path, text, "classes.json"))
        assert (data.class_names, data.targets.tolist()) == (("cat", "dog"), [[0, 1]])
    with pytest.raises(InputError, match=re.escape("classes: expected a list of class names")):
        read_csv(path, classes=[" ", "dog"])


def test_classes_with_the_separator_are_fine_where_there_are_no_lists(tmp_path: Path) -> None:
    data = read_csv(write(tmp_path, "image,a|b,c\na.jpg,1,0\n"), classes=["c", "a|b"])
    assert (data.class_names, data.targets.tolist()) == (("c", "a|b"), [[0, 1]])


def test_line_numbers_count_lines_of_the_file_not_rows(tmp_path: Path) -> None:
    text = 'image,note,labels\r\n\r\na.jpg,"two\r\nlines",x\r\nb.jpg,,y\r\n\r\nc.jpg,,x\r\n'
    data = read_csv(write(tmp_path, text))
    assert data.lines == (3, 5, 7)


def test_columns_per_class_with_unknown_cells(tmp_path: Path) -> None:
    path = write(tmp_path, "image,dog,split,cat\na.jpg,1,train,0\nb.jpg,,test,-1\nc.jpg, 0.0 ,test,1.0\n")
    data = read_csv(path)
    assert data.class_names == ("dog", "cat")
    assert data.targets.tolist() == [[1, 0], [-1, -1], [0, 1]]
    assert data.splits == ("train", "test", "test")
    assert data.stats().class_counts.tolist() == [1, 1]
    chosen = read_csv(path, classes=["cat"])
    assert chosen.class_names == ("cat",)
    assert chosen.targets.tolist() == [[0], [-1], [1]]


def test_classes_fix_order_and_absent_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "image,labels\na.jpg,dog\nb.jpg,\n")
    names = write(tmp_path, '["zebra", "dog"]', "classes.json")
    for classes in (names, str(names), ["zebra", "dog"], ("zebra ", "dog")):
        data = read_csv(path, classes=classes)
        assert data.class_names == ("zebra", "dog")
        assert data.targets.tolist() == [[0, 1], [0, 0]]


def test_separator_and_root_are_options(tmp_path: Path) -> None:
    path = write(tmp_path, 'image,labels\na.jpg,"dog, cat,"\n')
    data = read_csv(path, separator=",", root=tmp_path / "photos")
    assert data.class_names == ("cat", "dog")
    assert data.paths() == [tmp_path / "photos" / "a.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\ufeff\n", "is empty"),
        ("image,labels\n", "has no rows"),
        ("file,labels\na.jpg,x\n", ":1: no column 'image'; the header has 'file', 'labels'"),
        ("Image,labels\na.jpg,x\n", "did you mean 'Image'"),
        ("image:labels\na.jpg:x\n", "no column 'image'; the header has 'image:labels'"),
        ("image,split\na.jpg,x\n", "no column 'labels' and no column per class"),
        ("image,labels,labels\na.jpg,x,y\n", ":1: column 'labels' occurs more than once"),
        ("image,labels\na.jpg,x\nb.jpg,x,y\n", ":3: 3 cells where the header has 2"),
        ("image,labels\n\na.jpg\n", ":3: 1 cells where the header has 2"),
        ("image,labels\na.jpg,x\n ,y\n", ":3: no image is named"),
        ("image,labels\na.jpg,x\nb.jpg,y\na.jpg,y\n", ":4: image 'a.jpg' is at "),
        ("image,split,labels\na.jpg,train,x\n./a.jpg,test,x\n", ":3: image './a.jpg' is at "),
        ("image,labels\n/etc/a.jpg,x\n", ":2: image '/etc/a.jpg' is an absolute path"),
        ("image,labels\nC:\\a.jpg,x\n", "is an absolute path"),
        ("image,labels\n../a.jpg,x\n", ":2: image '../a.jpg' lies outside the root"),
        ("image,labels\nin/..\\..\\a.jpg,x\n", "lies outside the root"),
        ('image,labels\na.jpg,"x\nb.jpg,y\n', ":2: not valid CSV"),
        ('image,labels\na.jpg,"x"y\n', ":2: not valid CSV"),
        ("image,labels\na.jpg,\nb.jpg,|\n", "no row has a label"),
        ("image,cat,\na.jpg,1,0\n", "column 3 has no name"),
        ("image,cat,dog\na.jpg,1,0\nb.jpg,0,2\n", ":3: column 'dog' holds '2' where 1, 0, -1 or nothing"),
        ("image,Labels\na.jpg,dog|cat\n", "a column named 'labels'"),
        ("image,cat, dog\na.jpg,1,0\nb.jpg,1\n", ":3: 2 cells where the header has 3"),
        ("image,labels\n\\\\server\\a.jpg,x\n", "is an absolute path"),
        ("image,labels\nc:/a.jpg,x\n", "is an absolute path"),
        ("image,labels\n..,x\n", "lies outside the root"),
        ("image,labels\na\\b.jpg,x\na/b.jpg,x\n", ":3: image 'a/b.jpg' is at "),
        ("image,labels\na\0b.jpg,x\n", ":2: image 'a\\x00b.jpg' holds a null character"),
        (b"image,labels\na.jpg,x\ncaf\xe9.jpg,x\n", ":3: byte 0xe9 is not UTF-8"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_csv(write(tmp_path, text))
    assert "labels.csv" in str(caught.value)


def test_paths_that_only_look_like_ways_out_are_fine(tmp_path: Path) -> None:
    data = read_csv(write(tmp_path, "image,labels\nin/../a.jpg,x\n..b.jpg,x\nc..d/e.jpg,x\n"))
    assert data.names == ("in/../a.jpg", "..b.jpg", "c..d/e.jpg")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["dog", "cat"], "labels.csv:3: 'dgo' is none of the 2 classes (did you mean 'dog'?)"),
        (["dog", "dog "], "class 'dog' occurs more than once"),
        (["dog", ""], "expected a list of class names"),
        ([], "expected a list of class names"),
        (["dog", "dgo|cat"], "class 'dgo|cat' holds the separator '|'"),
    ],
)
def test_bad_classes_are_refused(tmp_path: Path, classes: list[str], message: str) -> None:
    path = write(tmp_path, "image,labels\na.jpg,dog\nb.jpg,dgo\n")
    with pytest.raises(InputError, match=re.escape(message)):
        read_csv(path, classes=classes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["dog",\n"cat"', "classes.json:2: not valid JSON"),
        ('"dog"', 'expected a list of class names such as ["cat", "dog"]'),
        ('{"dog": 1}', "expected a list of class names"),
        ('["dog", 1]', "expected a list of class names"),
    ],
)
def test_bad_class_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "image,labels\na.jpg,dog\n")
    with pytest.raises(InputError, match=re.escape(message)):
        read_csv(path, classes=write(tmp_path, text, "classes.json"))


def test_class_without_a_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "image,dog,cat\na.jpg,1,0\n")
    with pytest.raises(InputError, match=r"none for class 'dgo' \(did you mean 'dog'\?\)"):
        read_csv(path, classes=["cat", "dgo"])


def test_unreadable_files_and_empty_separator(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*gone.csv: No such file"):
        read_csv(tmp_path / "gone.csv")
    with pytest.raises(InputError, match=r"cannot read"):
        read_csv(tmp_path)
    with pytest.raises(InputError, match="separator must be at least one character"):
        read_csv(write(tmp_path, "image,labels\na.jpg,x\n"), separator="")


def test_select_names_the_splits_there_are(animals: Dataset, tmp_path: Path) -> None:
    assert animals.select("train").names == ("a.jpg", "b.jpg")
    assert animals.select("train").class_names == animals.class_names
    with pytest.raises(InputError, match=r"did you mean 'train'\?\); its splits are train \(2 rows\), test \(1 rows\)"):
        animals.select("trian")
    unsplit = read_csv(write(tmp_path, "image,labels\na.jpg,x\n", "unsplit.csv"))
    with pytest.raises(InputError, match=r"unsplit\.csv assigns no row to a split"):
        unsplit.select("train")
    assert animals.select("test+train").names == ("a.jpg", "b.jpg", "c.jpg")
    with pytest.raises(InputError, match=r"has no split 'none'; its splits are train"):
        animals.select("test+none")
    joined = read_csv(write(tmp_path, "image,split,labels\na.jpg,b+c,x\nd.jpg,b,x\ne.jpg,c,x\n", "joined.csv"))
    assert joined.select("b+c").names == ("a.jpg",)


def test_subset_takes_indices_and_masks_and_keeps_lines(animals: Dataset) -> None:
    by_index = animals.subset([2, 0])
    assert by_index.names == ("c.jpg", "a.jpg")
    assert by_index.lines == (4, 2)
    assert by_index.targets.tolist() == animals.targets[[2, 0]].tolist()
    assert animals.subset(np.array([True, False, False, True])).names == ("a.jpg", "d.jpg")
    assert len(animals.subset([])) == 0
    with pytest.raises(IndexError):
        animals.subset([4])


def test_stats_pass_their_options_on(animals: Dataset) -> None:
    stats = animals.stats(thresholds=(1, 2), cooccurrence=True)
    assert stats.class_names == animals.class_names
    assert stats.class_counts.tolist() == [1, 2, 1]
    assert stats.groups["head"].tolist() == [1]
    assert stats.cooccurrence is not None
    assert stats.cooccurrence[1, 2] == 1
    plain = animals.stats()
    assert (plain.thresholds, plain.cooccurrence) == ((20, 100), None)


def test_missing_images_are_refused_or_left_out(animals: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels.csv:2: no image 'a.jpg' .*none of the 4 images is there"):
        require_images(animals, on_error="skip")
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "d.jpg").mkdir()
    with pytest.raises(InputError, match=r"labels.csv:3: no image 'b.jpg' .*2 of 4 images are missing"):
        require_images(animals)
    kept = require_images(animals, on_error="skip")
    assert kept.names == ("a.jpg", "c.jpg")
    assert [message.split(": ")[0].rsplit(":", 1)[1] for message in kept.skipped] == ["3", "5"]
