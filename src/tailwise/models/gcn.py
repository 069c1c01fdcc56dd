"""The graph head: classifiers from label embeddings, by a graph convolution over classes that occur together.

Chen et al., "Multi-Label Image Recognition with Graph Convolutional Networks" (ML-GCN), CVPR 2019. Label embeddings are
vectors of the class names, random or from a file of word vectors.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tailwise.data.formats.rows import read_text
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.matrix import Targets
from tailwise.models.model_config import ModelConfig
from tailwise.shapes import Float
from tailwise.spelling import near

Vector: TypeAlias = NDArray[np.float64]

_NEGATIVE_SLOPE = 0.2
# A longer first line is not a word with its vector.
_LONGEST_LINE = 2**20
_SPACES = str.maketrans("-_", "  ")
# Makes the random vectors independent of the initial weights, which are drawn from the seed alone.
_STREAM = 0x6C6162656C
_LISTED = 5
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelGraph:
    """The graph of a graph head, over its K classes.

    Attributes:
        adjacency: (K, K) normalised edges, from :func:`label_adjacency`.
        embeddings: (K, E) vectors of the class names, from :func:`label_embeddings`.
    """

    adjacency: Float[Tensor, "K K"]
    embeddings: Float[Tensor, "K E"]


def create_graph(
    config: ModelConfig, targets: Targets, class_names: Sequence[str], *, seed: int = 0
) -> LabelGraph | None:
    """Make the graph of a configuration's head from training labels; None where the head has no graph.

    Args:
        config: ``head``, the ``label_`` options, ``graph_threshold`` and ``graph_reweight`` are used.
        targets: (N, K) training labels, dense or sparse: 1, 0, or -1 for unknown.
        class_names: K names.
        seed: of random label embeddings.

    Raises:
        InputError: as :func:`label_embeddings`.
    """
    if config.head != "gcn":
        return None
    adjacency = label_adjacency(targets, threshold=config.graph_threshold, reweight=config.graph_reweight)
    linked = int((adjacency > 0).sum()) - len(adjacency)
    _logger.info("label graph: %d classes, %d edges at threshold %g", len(adjacency), linked, config.graph_threshold)
    return LabelGraph(adjacency, label_embeddings(config, class_names, seed=seed))


def blank_graph(config: ModelConfig, num_classes: int) -> LabelGraph | None:
    """A graph of zeros, for a head whose state is loaded afterwards; None where the head has no graph."""
    if config.head != "gcn":
        return None
    return LabelGraph(torch.zeros(num_classes, num_classes), torch.zeros(num_classes, config.label_width))


def label_adjacency(targets: Targets, *, threshold: float, reweight: float) -> Float[Tensor, "K K"]:
    r"""Edges between classes that occur together, normalised for a graph convolution.

    With :math:`P_{ij} = M_{ij} / n_i`, the share of the images of class i that have class j too,

    .. math::
        B_{ij} = [P_{ij} \ge t, \; i \ne j] \qquad
        A = I + p \, B_{ij} / \textstyle\sum_l B_{il} \qquad
        \hat A_{ij} = A_{ij} / \sqrt{d_i d_j}, \; d_i = \textstyle\sum_j A_{ij}

    (eq. 7 and 8 of the paper). The paper gives edges the weight p' and a class itself 1 - p'; that is this A with
    p = p' / (1 - p') but for a factor, which the normalisation takes out: its p' = .2 is p = .25 here.

    Args:
        targets: (N, K) training labels, dense or sparse. An unknown label (-1) counts as no positive one.
        threshold: t in (0, 1].
        reweight: p, at least 0; 0 leaves the identity.

    Returns:
        (K, K) float32. A class without positives, or that meets no other often enough, is linked to itself only.
    """
    pairs = LabelStats.from_targets(targets, cooccurrence=True).cooccurrence
    assert pairs is not None
    counts = np.diagonal(pairs)[:, None]
    edges = pairs / np.maximum(counts, 1) >= threshold
    np.fill_diagonal(edges, False)
    weights = np.eye(len(edges)) + reweight * edges / np.maximum(edges.sum(axis=1, keepdims=True), 1)
    degrees = weights.sum(axis=1)
    return torch.from_numpy(weights / np.sqrt(np.outer(degrees, degrees))).float()


class GraphConvolution(nn.Module):
    r"""One layer :math:`\hat A H W` (Kipf and Welling, ICLR 2017).

    Args:
        in_width: features of a class before.
        out_width: features of a class after.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_width, out_width))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, adjacency: Float[Tensor, "K K"], nodes: Float[Tensor, "K I"]) -> Float[Tensor, "K O"]:
        """Return the (K, O) features of K classes."""
        return adjacency @ (nodes @ self.weight)


class GraphHead(nn.Module):
    r"""Pooled features to logits by generated classifiers.

    With label embeddings Z and the adjacency :math:`\hat A`, the classifiers are
    :math:`C = \hat A \, \mathrm{LeakyReLU}_{.2}(\hat A Z W_1) \, W_2` and the logits of features x are
    :math:`C \, \mathrm{neck}(x)`, without a bias.

    Args:
        neck: (B, F) to (B, D).
        graph: adjacency and embeddings; they are part of the head's state, and are not trained.
        hidden: features of a class between the two layers.
        width: D.
    """

    adjacency: Tensor
    embeddings: Tensor

    def __init__(self, neck: nn.Module, graph: LabelGraph, hidden: int, width: int) -> None:
        super().__init__()
        self.neck = neck
        self.register_buffer("adjacency", graph.adjacency)
        self.register_buffer("embeddings", graph.embeddings)
        self.first = GraphConvolution(graph.embeddings.shape[1], hidden)
        self.second = GraphConvolution(hidden, width)

    def classifiers(self) -> Float[Tensor, "K D"]:
        """Return the weights of each class."""
        hidden = functional.leaky_relu(self.first(self.adjacency, self.embeddings), _NEGATIVE_SLOPE)
        generated: Tensor = self.second(self.adjacency, hidden)
        return generated

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the (B, K) logits of (B, F) pooled features."""
        logits: Tensor = self.neck(features) @ self.classifiers().T
        return logits


def label_embeddings(config: ModelConfig, class_names: Sequence[str], *, seed: int = 0) -> Float[Tensor, "K E"]:
    """Make the vectors of the classes, each of length 1, and log their source.

    Args:
        config: ``label_embeddings``, ``label_words`` and ``label_width`` (E) are used.
        class_names: K names.
        seed: of random vectors.

    Returns:
        (K, E) float32, from the configured file, otherwise random ones, as orthogonal as possible.

    Raises:
        InputError: the file cannot be read, has vectors of another width, or none for a class.
    """
    _logger.info("label embeddings: %s", embeddings_source(config, seed=seed))
    if config.label_embeddings is None:
        return random_embeddings(len(class_names), config.label_width, seed=seed)
    path, width = Path(config.label_embeddings), config.label_width
    try:
        if path.suffix == ".npy":
            rows = _rows(path, len(class_names), width)
        else:
            rows = _look_up(path, _texts(class_names, config.label_words), width)
    except OSError as error:
        raise InputError(f"--label-embeddings {path} cannot be read: {error.strerror or error}") from error
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        name = class_names[int(np.flatnonzero(lengths[:, 0] == 0)[0])]
        raise InputError(f"{path}: the vector of class {name!r} is all zeros")
    return torch.from_numpy(rows / lengths).float()


def random_embeddings(num_classes: int, width: int, *, seed: int) -> Float[Tensor, "K E"]:
    """Make random vectors of length 1: orthogonal ones for up to E classes; for more, rows of orthogonal columns."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, _STREAM]).generate_state(1)[0]))
    rows = nn.init.orthogonal_(torch.empty(num_classes, width), generator=generator)
    return nn.functional.normalize(rows, dim=1)


def embeddings_source(config: ModelConfig, *, seed: int) -> str | None:
    """The source of a configuration's vectors, in words; None without a head that uses them."""
    if config.head != "gcn":
        return None
    return f"random orthogonal, seed {seed}" if config.label_embeddings is None else str(config.label_embeddings)


def _texts(class_names: Sequence[str], words: Mapping[str, str]) -> dict[str, str]:
    """The text to look up for each class."""
    for name in words:
        if name not in class_names:
            raise InputError(f"--label-words: no class is called {name!r}{near(name, class_names)}")
    return {name: _plain(words.get(name, name)) for name in class_names}


def _plain(text: str) -> str:
    """Words in lower case with single spaces between; hyphens and underscores are spaces."""
    return " ".join(text.casefold().translate(_SPACES).split())


def _look_up(path: Path, texts: Mapping[str, str], width: int) -> Vector:
    """(K, E) vectors of classes: the vector of the text, otherwise the mean of those of its words."""
    wanted = {part for text in texts.values() for part in (text, *text.split())}
    match path.suffix:
        case ".json":
            found = _from_mapping(path, _read_json(path), wanted, width)
        case ".npz":
            found = _from_mapping(path, _load(path, dict), wanted, width)
        case _:
            found = _from_lines(path, wanted, width)
    known = {name: _parts(text, found) for name, text in texts.items()}
    without = [name for name, parts in known.items() if not parts]
    if without:
        raise InputError(
            f"--label-embeddings {path}: no vector for {_some(without)}; add one to the file, or name other "
            f"words with --label-words, as in '{json.dumps({without[0]: 'its words'}, ensure_ascii=False)}'"
        )
    left_out = {word for text in texts.values() if text not in found for word in text.split() if word not in found}
    if left_out:
        _logger.warning("%s: no vector for %s, left out of the mean of the other words", path, _some(sorted(left_out)))
    return np.stack([np.mean(parts, axis=0) for parts in known.values()])


def _parts(text: str, found: Mapping[str, Vector]) -> list[Vector]:
    return [found[text]] if text in found else [found[word] for word in text.split() if word in found]


def _from_lines(path: Path, wanted: Collection[str], width: int) -> dict[str, Vector]:
    """Vectors of the wanted words from lines ``word v1 ... vE``; of several spellings of a word, the first one.

    The file is read once, up to the last word that is needed.
    """
    found: dict[str, Vector] = {}
    with path.open("rb") as file:
        _check_first(file.readline(_LONGEST_LINE), path, width)
        file.seek(0)
        for number, line in enumerate(file, start=1):
            # Few of the millions of words are needed: the values of the others are not parsed.
            start = line.split(None, 1)[:1]
            if not start or _decoded(start) not in wanted:
                continue
            fields = line.split()
            if len(fields) <= width:
                raise InputError(f"{path}:{number}: {_misfit(len(fields) - 1, width)}")
            # Some files have words that contain spaces.
            word = _decoded(fields[:-width])
            if word in wanted and word not in found:
                found[word] = _vector(fields[-width:], width, f"{path}:{number}")
            if len(found) == len(wanted):
                break
    return found


def _check_first(line: bytes, path: Path, width: int) -> None:
    """Refuse a file whose first line is neither a word with E values nor the two numbers that some files begin with."""
    fields = line.split()
    is_header = len(fields) == 2 and all(field.isdigit() for field in fields)
    given = int(fields[1]) if is_header else len(fields) - 1
    if given < 1 or not _is_number(fields[-1]):
        raise InputError(
            f"--label-embeddings {path} is not a file of word vectors: expected lines of a word and its values, as "
            "GloVe's, or a .json, .npz or .npy file"
        )
    if given != width:
        raise InputError(f"{path}:1: {_misfit(given, width)}")


def _from_mapping(path: Path, vectors: Mapping[str, Any], wanted: Collection[str], width: int) -> dict[str, Vector]:
    found: dict[str, Vector] = {}
    for name in vectors:
        word = _plain(name)
        if word in wanted and word not in found:
            found[word] = _vector(vectors[name], width, f"{path}: {name!r}")
    return found


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(content, dict):
        raise InputError(f'{path}: expected an object of vectors by name, as in {{"cat": [0.1, ...]}}')
    return content


def _load(path: Path, expected: type) -> Any:
    """The array of a .npy file, or the dict of those of a .npz file."""
    try:
        content: Any = np.load(path)
        content = dict(content) if isinstance(content, Mapping) else content
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a {path.suffix} file of numbers: {error}") from error
    if not isinstance(content, expected):
        raise InputError(f"{path} is not a {path.suffix} file, but another NumPy file: correct its suffix")
    return content


def _rows(path: Path, num_classes: int, width: int) -> Vector:
    rows = _load(path, np.ndarray)
    if rows.ndim != 2 or len(rows) != num_classes:
        raise InputError(f"{path}: expected a row for each of the {num_classes} classes, got the shape {rows.shape}")
    return np.stack([_vector(row, width, f"{path}: row {index}") for index, row in enumerate(rows)])


def _vector(values: Any, width: int, place: str) -> Vector:
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{place}: a value is not numeric: {error}") from error
    if vector.ndim != 1:
        raise InputError(f"{place}: expected a list of {width} numbers")
    if len(vector) != width:
        raise InputError(f"{place}: {_misfit(len(vector), width)}")
    if not np.isfinite(vector).all():
        raise InputError(f"{place}: a value is not finite")
    return vector


def _misfit(given: int, width: int) -> str:
    return f"a vector of {given} values, expected {width}; set --label-width to the width of the file"


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _decoded(words: Sequence[bytes]) -> str:
    return _plain(b" ".join(words).decode("utf-8", "replace"))


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:_LISTED])
    return listed + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
