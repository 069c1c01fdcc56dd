"""The options of a classifier, from which the command line and YAML files are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tailwise.errors import InputError
from tailwise.options import check_fields, option


@dataclass(frozen=True)
class ModelConfig:
    """The classifier. The defaults are the recipe of the distribution-balanced loss (Wu et al., ECCV 2020)."""

    backbone: str = option(default="resnet50.tv_in1k", first=True)
    """Name of a timm model. It may have the tag of its weights: ``tv_in1k`` are torchvision's V1 weights."""

    pretrained: bool = True
    """Start from timm's weights for this backbone, which are downloaded once. Else, and without --weights, from random
    ones."""

    weights: Path | None = option(default=None, first=True)
    """File of backbone weights to start from instead. Safetensors, or a state dict saved by torch. It must fit exactly;
    a classifier in it is left out."""

    options: dict[str, Any] = option(factory=dict, prefixed=True)
    """Further arguments of the timm model, such as ``{"pad_type": "same"}``."""

    frozen_stages: int = option(default=1, at_least=-1)
    """What keeps its weights: -1 nothing, 0 the stem, n the stem and the first n stages (blocks in a transformer)."""

    running_stats: bool = True
    """Batch norms of the backbone use their running statistics in training too; scale and shift still train."""

    neck: Literal["recipe", "none"] | None = None
    """Between pooled features and classifier: ``recipe`` is linear, batch norm, dropout; ``none`` is nothing. By
    default ``recipe`` for the linear head and ``none`` for the graph head, as each was published."""

    neck_width: int = option(default=256, at_least=1)
    """Features after the neck."""

    dropout: float = option(default=0.5, at_least=0, below=1)
    """Probability with which the neck drops a feature in training."""

    head: Literal["linear", "gcn"] = "linear"
    """Classifier: ``linear`` has free weights for each class, ``gcn`` makes them from label embeddings by a graph
    convolution over classes that occur together (ML-GCN, Chen et al., CVPR 2019)."""

    label_embeddings: Path | None = None
    """File of vectors of the class names, for gcn: GloVe's text format, or JSON, .npz or .npy. Random orthogonal
    vectors without one."""

    label_words: dict[str, str] = field(default_factory=dict)
    """Words to look up instead of a class's name, such as ``{"diningtable": "dining table"}``."""

    label_width: int = option(default=300, at_least=1)
    """Dimensions of the label embeddings."""

    graph_hidden: int = option(default=256, at_least=1)
    """Features of a class between the two graph convolutions."""

    graph_threshold: float = option(default=0.4, above=0, at_most=1)
    """A class is linked to the others that at least this share of its training images have too."""

    graph_reweight: float = option(default=0.25, at_least=0)
    """Weight of all classes that a class is linked to, together; its own is 1."""

    mean: tuple[float, ...] | None = option(default=None, prefixed=True)
    """Channel means that input images in [0, 1] are normalised with; those of the timm model when absent."""

    std: tuple[float, ...] | None = option(default=None, prefixed=True)
    """Channel standard deviations that input images are normalised with; those of the timm model when absent."""

    def __post_init__(self) -> None:
        check_fields(self, "model")
        if self.std is not None and min(self.std, default=0) <= 0:
            raise InputError(f"--model.std must be above 0 in every channel, got {self.std}")

    @property
    def has_neck(self) -> bool:
        """Whether something is between pooled features and classifier."""
        return self.head == "linear" if self.neck is None else self.neck == "recipe"
