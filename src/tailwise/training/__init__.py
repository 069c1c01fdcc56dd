"""Training and testing runs; see :mod:`tailwise.training.run`."""

from tailwise.training.run import Result, evaluate, train

__all__ = ["Result", "evaluate", "train"]
