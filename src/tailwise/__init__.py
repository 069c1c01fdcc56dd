"""tailwise: train multi-label classifiers when most labels are rare."""

from tailwise.labels import LabelStats

__version__ = "0.2.0"
__all__ = ["LabelStats", "__version__"]
