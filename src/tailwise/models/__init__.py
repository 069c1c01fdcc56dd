"""Classifiers on timm backbones."""

from tailwise.models.backbone import create_backbone, feature_width, freeze_stages, input_statistics
from tailwise.models.classifier import Classifier, Head, create_classifier, create_head
from tailwise.models.config import ModelConfig
from tailwise.models.inference import FrozenBackbone, prepare_for_inference

__all__ = [
    "Classifier",
    "FrozenBackbone",
    "Head",
    "ModelConfig",
    "create_backbone",
    "create_classifier",
    "create_head",
    "feature_width",
    "freeze_stages",
    "input_statistics",
    "prepare_for_inference",
]
