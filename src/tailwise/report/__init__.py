"""What people read: terminal tables and self-contained HTML pages."""

from tailwise.errors import require_extra

require_extra(__name__)
