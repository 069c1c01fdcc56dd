"""The options of a classifier, from which the command line and YAML files are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tailwise.errors import InputError
from tailwise.options import check_fields, option

PUBLISHED_FROZEN_STAGES: Final = 1
"""Frozen stages of the published recipe, after the stem."""


@dataclass(frozen=True)
class ModelConfig:
    """The classifier. What is left open is that of the distribution-balanced loss (Wu et al., ECCV 2020) in a published
    recipe, and depends on how the head is found elsewhere."""

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

    frozen_stages: int | None = option(default=None, at_least=-1)
    """What keeps its weights: -1 nothing, 0 the stem, n the stem and the first n stages (blocks in a transformer). By
    default -1 in fine-tuning without a published recipe, else 1."""

    running_stats: bool = True
    """Batch norms of the backbone use their running statistics in training too; scale and shift still train."""

    pool: Literal["avg", "max", "catavgmax"] | None = None
    """How features of locations become those of the image: their mean, their largest values, or both side by side
    (catavgmax). By default as in the timm model."""

    neck: Literal["recipe", "unit", "none"] | None = None
    """Between pooled features and classifier: ``recipe`` is linear, batch norm, dropout; ``unit`` scales the features
    of each image to the same norm; ``none`` is nothing. By default ``unit`` where a network is fine-tuned, ``recipe``
    for a linear head in a published recipe, and ``none`` for other heads."""

    neck_width: int = option(default=256, at_least=1)
    """Features after the neck."""

    dropout: float = option(default=0.5, at_least=0, below=1)
    """Probability with which the neck drops a feature in training."""

    head: Literal["linear", "gcn", "csra", "ml-decoder"] = "linear"
    """Classifier: ``linear`` has free weights for each class, ``gcn`` makes them from label embeddings by a graph
    convolution over classes that occur together (ML-GCN, Chen et al., CVPR 2019). In finetune mode also two that see
    the features of all locations: ``csra`` attends to those of a class (Zhu and Wu, ICCV 2021), ``ml-decoder`` decodes
    them by cross-attention (Ridnik et al., WACV 2023)."""

    csra_heads: int = option(default=1, at_least=1)
    """Heads of csra, with the temperatures 1, 2, ... and at last the maximum."""

    csra_weight: float = option(default=0.1, at_least=0)
    """Weight of the attention of csra, beside the mean."""

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

    tta: Literal["none", "flip"] = "none"
    """Views of an image that is tested or predicted: ``flip`` averages the scores of the image and its mirror image, in
    probe mode their features. Takes twice as long."""

    mean: tuple[float, ...] | None = option(default=None, prefixed=True)
    """Channel means that input images in [0, 1] are normalised with; those of the timm model when absent."""

    std: tuple[float, ...] | None = option(default=None, prefixed=True)
    """Channel standard deviations that input images are normalised with; those of the timm model when absent."""

    def __post_init__(self) -> None:
        check_fields(self, "model")
        if self.std is not None and min(self.std, default=0) <= 0:
            raise InputError(f"--model.std must be above 0 in every channel, got {self.std}")
        if self.is_spatial and (self.pool or self.neck not in (None, "none")):
            given = f"--pool {self.pool}" if self.pool else f"--neck {self.neck}"
            raise InputError(f"--model.head {self.head} sees the features of all locations: leave out {given}")

    @property
    def has_neck(self) -> bool:
        """Whether the published neck is between pooled features and classifier."""
        return self.head == "linear" if self.neck is None else self.neck == "recipe"

    @property
    def is_spatial(self) -> bool:
        """Whether the head takes the features of all locations, and not pooled ones."""
        return self.head in ("csra", "ml-decoder")

    @property
    def timm_options(self) -> dict[str, Any]:
        """Further arguments of the timm model, with that of the pooling where it is not the model's own."""
        pool = "" if self.is_spatial else self.pool
        return dict(self.options) if pool is None else {**self.options, "global_pool": pool}
