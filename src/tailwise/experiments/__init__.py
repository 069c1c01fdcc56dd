"""Methods side by side: comparisons, the papers' tables and figures, and the demo."""

from tailwise.errors import require_extra

require_extra(__name__)
