"""The options of a classifier, from which the command line and YAML files are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tailwise.checked import check_fields
from tailwise.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """The classifier. The defaults are the recipe of the distribution-balanced loss (Wu et al., ECCV 2020)."""

    backbone: str = "resnet50.tv_in1k"
    """Name of a timm model, with or without the tag of its weights: ``tv_in1k`` are torchvision's V1 weights."""

    pretrained: bool = True
    """Start from timm's weights for this name, downloaded once; else, and without a weights file, from random ones."""

    weights: Path | None = None
    """File of backbone weights to start from instead: safetensors, or a state dict saved by torch. It must fit exactly;
    a classifier in it is left out."""

    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the timm model, such as ``{"pad_type": "same"}``."""

    frozen_stages: int = 1
    """What keeps its weights: -1 nothing, 0 the stem, n the stem and the first n stages (blocks in a transformer)."""

    running_stats: bool = True
    """Batch norms of the backbone use their running statistics in training too; scale and shift still train."""

    neck: Literal["recipe", "none"] | None = None
    """Between pooled features and classifier: ``recipe`` is linear, batch norm, dropout; ``none`` is nothing. By
    default ``recipe`` for the linear head and ``none`` for the graph head, as each was published."""

    neck_width: int = 256
    """Features after the neck."""

    dropout: float = 0.5
    """Probability with which the neck drops a feature in training."""

    head: Literal["linear", "gcn"] = "linear"
    """Classifier: ``linear`` has free weights for each class, ``gcn`` makes them from label embeddings by a graph
    convolution over classes that occur together (ML-GCN, Chen et al., CVPR 2019)."""

    label_embeddings: Path | None = None
    """File of vectors of the class names, for gcn: GloVe's text format, or JSON, .npz or .npy. Random orthogonal
    vectors without one."""

    label_words: dict[str, str] = field(default_factory=dict)
    """Words to look up instead of a class's name, such as ``{"diningtable": "dining table"}``."""

    label_width: int = 300
    """Dimensions of the label embeddings."""

    graph_hidden: int = 256
    """Features of a class between the two graph convolutions."""

    graph_threshold: float = 0.4
    """A class is linked to the others that at least this share of its training images have too."""

    graph_reweight: float = 0.25
    """Weight of all classes that a class is linked to, together; its own is 1."""

    mean: tuple[float, ...] | None = None
    """Channel means that input images in [0, 1] are normalised with; those of the timm model when absent."""

    std: tuple[float, ...] | None = None
    """Channel standard deviations that input images are normalised with; those of the timm model when absent."""

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        if self.frozen_stages < -1:
            raise InputError(f"frozen_stages must be -1 (nothing), 0 (the stem) or more, got {self.frozen_stages}")
        if self.neck_width < 1:
            raise InputError(f"neck_width must be at least 1, got {self.neck_width}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.label_width < 1:
            raise InputError(f"label_width must be at least 1, got {self.label_width}")
        if self.graph_hidden < 1:
            raise InputError(f"graph_hidden must be at least 1, got {self.graph_hidden}")
        if not 0 < self.graph_threshold <= 1:
            raise InputError(f"graph_threshold must be in (0, 1], got {self.graph_threshold}")
        if self.graph_reweight < 0:
            raise InputError(f"graph_reweight must be 0 or more, got {self.graph_reweight}")
        if self.std is not None and min(self.std, default=0) <= 0:
            raise InputError(f"std must be positive in every channel, got {self.std}")

    @property
    def has_neck(self) -> bool:
        """Whether something is between pooled features and classifier."""
        return self.head == "linear" if self.neck is None else self.neck == "recipe"
