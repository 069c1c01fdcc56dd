"""Classifiers on timm backbones. Import from the modules: timm loads slowly, and model_config does not need it."""

from tailwise.errors import require_extra

require_extra(__name__)
