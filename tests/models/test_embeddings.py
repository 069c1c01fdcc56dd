"""Label embeddings: word vectors in every format, what is looked up for a class, bad files, and random vectors."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tailwise.errors import InputError
from tailwise.models.gcn import embeddings_source, label_embeddings, random_embeddings
from tailwise.models.model_config import ModelConfig

WIDTH = 4
CLASSES = ("Cat", "traffic light", "t-shirt", "New_York", "zebra")
WORDS = ("the", "cat", "traffic", "light", "t-shirt", "new", "york", "at", "zebra", "shirt", "t")


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    """A vector for each word; none of length 1."""
    generator = np.random.default_rng(0)
    return {word: generator.normal(size=WIDTH).round(4) * 3 for word in WORDS}


def write(path: Path, vectors: dict[str, np.ndarray], before: str = "", end: str = "\n") -> Path:
    lines = [" ".join([word, *map(str, vector)]) for word, vector in vectors.items()]
    path.write_bytes((before + end.join(lines) + end).encode())
    return path


def config(path: Path | None, **options: Any) -> ModelConfig:
    return ModelConfig(**{"head": "gcn", "label_embeddings": path, "label_width": WIDTH, **options})


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).sum())


def expected(vectors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The vectors of CLASSES: of a name the file has, else the mean of its words'."""
    light = (vectors["traffic"] + vectors["light"]) / 2
    city = (vectors["new"] + vectors["york"]) / 2
    return [unit(vector) for vector in (vectors["cat"], light, vectors["t-shirt"], city, vectors["zebra"])]


@pytest.mark.parametrize("variant", ["glove", "header", "windows", "tabs", "json", "npz"])
def test_every_format_gives_the_same_vectors(tmp_path: Path, vectors: dict[str, np.ndarray], variant: str) -> None:
    match variant:
        case "glove":
            path = write(tmp_path / "glove.txt", vectors)
        case "header":
            path = write(tmp_path / "wiki.vec", vectors, before=f"{len(vectors)} {WIDTH}\n")
        case "windows":
            path = write(tmp_path / "glove.txt", vectors, end="\r\n")
        case "tabs":
            path = write(tmp_path / "glove.txt", vectors)
            path.write_text(path.read_text().replace(" ", "\t"))
        case "json":
            path = tmp_path / "vectors.json"
            path.write_text(json.dumps({word: vector.tolist() for word, vector in vectors.items()}))
        case "npz":
            path = tmp_path / "vectors.npz"
            np.savez(path, **vectors)
    found = label_embeddings(config(path), CLASSES)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected(vectors), rtol=1e-5)


def test_rows_of_an_array_are_the_classes_in_order(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    found = label_embeddings(config(tmp_path / "rows.npy"), CLASSES)
    np.testing.assert_allclose(found, [unit(row) for row in rows], rtol=1e-5)


def test_the_first_spelling_of_a_word_counts_and_phrases_win_over_their_words(
    tmp_path: Path, vectors: dict[str, np.ndarray]
) -> None:
    extra = {"CAT": np.ones(WIDTH), "traffic_light": np.arange(WIDTH) + 1.0, "new york": np.arange(WIDTH) - 1.5}
    path = write(tmp_path / "glove.txt", {**vectors, **extra})
    found = label_embeddings(config(path), CLASSES).numpy()
    np.testing.assert_allclose(found[0], unit(vectors["cat"]), rtol=1e-5)
    np.testing.assert_allclose(found[1], unit(extra["traffic_light"]), rtol=1e-5)
    np.testing.assert_allclose(found[3], unit(extra["new york"]), rtol=1e-5)


def test_other_lines_are_not_looked_at_and_none_after_the_last_word(
    tmp_path: Path, vectors: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "glove.txt"
    known = write(path, vectors).read_bytes().replace(b"zebra", b"at name@domain.com 1 2 3 4\n\n\xff\xfe 1 2\nzebra")
    path.write_bytes(known + b"zebra broken\n")
    found = label_embeddings(config(path), ("zebra", "at"))
    np.testing.assert_allclose(found, [unit(vectors["zebra"]), unit(vectors["at"])], rtol=1e-5)


def test_other_words_can_be_named_for_a_class(tmp_path: Path, vectors: dict[str, np.ndarray]) -> None:
    path = write(tmp_path / "glove.txt", vectors)
    found = label_embeddings(
        config(path, label_words={"tshirt": "T_shirt", "streetlight": "light"}), ("streetlight", "tshirt")
    )
    np.testing.assert_allclose(found, [unit(vectors["light"]), unit(vectors["t-shirt"])], rtol=1e-5)
    with pytest.raises(InputError, match=r"--label-words: no class is called 'catt' \(did you mean 'cat'\?\)"):
        label_embeddings(config(path, label_words={"catt": "cat"}), ("cat",))


def test_words_without_a_vector_are_left_out_of_the_mean_and_named(
    tmp_path: Path, vectors: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "glove.txt", vectors)
    with caplog.at_level(logging.INFO):
        found = label_embeddings(config(path), ("okapi cat",))
    np.testing.assert_allclose(found, [unit(vectors["cat"])], rtol=1e-5)
    assert "no vector for 'okapi', left out of the mean" in caplog.text
    assert f"label embeddings: {path}" in caplog.text


BAD = {
    "missing.txt": (None, r"missing.txt cannot be read: No such file"),
    "short.txt": ("the 1 2 3 4\ncat 1 2 3\n", r"short.txt:2: a vector of 3 values, expected 4"),
    "long.txt": (
        "the 1 2 3 4 5\ncat 1 2 3 4 5\n",
        r"long.txt:1: a vector of 5 values, expected 4; set --label-width",
    ),
    "header.txt": ("2 50\ncat 1 2 3 4\n", r"header.txt:1: a vector of 50 values, expected 4"),
    "word.txt": ("the 1 2 3 4\ncat 1 2 x 4\n", r"word.txt:2: a value is not numeric: .*'x'"),
    "nan.txt": ("the 1 2 3 4\ncat 1 2 nan 4\n", r"nan.txt:2: a value is not finite"),
    "zero.txt": ("the 1 2 3 4\ncat 0 0 0 0\n", r"zero.txt: the vector of class 'cat' is all zeros"),
    "empty.txt": ("", r"empty.txt is not a file of word vectors: expected lines of a word and its values"),
    "prose.txt": ("Once upon a time\n", r"prose.txt is not a file of word vectors"),
    "other.txt": (
        "the 1 2 3 4\n",
        r"other.txt: no vector for 'cat'; .*--label-words, as in '\{\"cat\": \"its words\"\}'",
    ),
    "broken.json": ('{"cat": [1, 2\n', r"broken.json:2: not JSON"),
    "list.json": ("[1, 2, 3, 4]", r"list.json: expected an object of vectors by name"),
    "width.json": ('{"cat": [1, 2]}', r"width.json: 'cat': a vector of 2 values, expected 4"),
    "text.json": ('{"cat": "furry"}', r"text.json: 'cat': a value is not numeric"),
    "nested.json": ('{"cat": [[1, 2], [3]]}', r"nested.json: 'cat': a value is not numeric"),
    "matrix.json": ('{"cat": [[1, 2, 3, 4]]}', r"matrix.json: 'cat': expected a list of 4 numbers"),
    "garbage.npz": ("garbage", r"garbage.npz is not a .npz file of numbers"),
    "garbage.npy": ("garbage", r"garbage.npy is not a .npy file of numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_used_say_where_and_why(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        label_embeddings(config(path), ("cat",))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    for rows, message in (
        (np.ones((3, WIDTH)), r"a row for each of the 2 classes, got the shape \(3, 4\)"),
        (np.ones((2, 5)), r"row 0: a vector of 5 values, expected 4"),
        (np.array([["a"] * WIDTH] * 2), "row 0: a value is not numeric"),
        (np.array([[None] * WIDTH] * 2), "a .npy file of numbers"),
    ):
        np.save(path, rows)
        with pytest.raises(InputError, match=message):
            label_embeddings(config(path), ("cat", "dog"))
    np.savez(tmp_path / "rows.npz", cat=np.ones(WIDTH), dog=np.ones(WIDTH))
    (tmp_path / "rows.npz").rename(path)
    with pytest.raises(InputError, match="another NumPy file"):
        label_embeddings(config(path), ("cat", "dog"))


def test_many_classes_without_a_vector_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "glove.txt", {"the": np.ones(WIDTH)})
    with pytest.raises(InputError, match=re.escape("no vector for 'a0', 'a1', 'a2', 'a3', 'a4' and 3 more;")):
        label_embeddings(config(path), [f"a{index}" for index in range(8)])


@pytest.mark.parametrize(("num_classes", "width"), [(18, 300), (300, 300), (1000, 300), (7, 2)])
def test_random_vectors_are_as_orthogonal_as_they_can_be(num_classes: int, width: int) -> None:
    rows = random_embeddings(num_classes, width, seed=3).double()
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(num_classes, dtype=torch.float64), rtol=1e-6, atol=0)
    if num_classes <= width:
        torch.testing.assert_close(rows @ rows.T, torch.eye(num_classes, dtype=torch.float64), rtol=0, atol=1e-5)
    else:
        assert torch.linalg.matrix_rank(rows) == width
        # No direction has much more of the vectors than another.
        assert torch.linalg.cond(rows) < 1.5
    assert len(torch.unique(rows, dim=0)) == num_classes


def test_random_vectors_follow_the_seed_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    state = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        first, again, other = (label_embeddings(config(None), CLASSES, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert "label embeddings: random orthogonal, seed 3" in caplog.text


def test_the_source_is_named_only_where_it_is_used(tmp_path: Path) -> None:
    assert embeddings_source(ModelConfig(label_embeddings=tmp_path), seed=3) is None
    assert embeddings_source(config(None), seed=3) == "random orthogonal, seed 3"
    assert embeddings_source(config(tmp_path / "glove.txt"), seed=3) == str(tmp_path / "glove.txt")
