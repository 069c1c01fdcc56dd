"""Classifiers on timm backbones. Import from the modules: timm loads slowly, and options do not need it."""
