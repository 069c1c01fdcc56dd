"""Training and testing of runs; see :mod:`tailwise.training.run`."""

from tailwise.errors import require_extra

require_extra(__name__)
