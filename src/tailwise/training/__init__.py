"""Training and testing runs; see :mod:`tailwise.training.run`."""

from tailwise.errors import require_extra

require_extra(__name__)

from tailwise.training.run import Result, evaluate, train  # noqa: E402

__all__ = ["Result", "evaluate", "train"]
