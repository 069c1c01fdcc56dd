"""What people read: terminal tables and self-contained HTML pages."""
