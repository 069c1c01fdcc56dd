"""Benchmark data sets by name."""

from tailwise.data.benchmarks.digits import DigitScenes, digits

__all__ = ["DigitScenes", "digits"]
