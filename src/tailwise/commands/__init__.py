"""Commands of ``tailwise``: one module each, with its options and its function ``run``."""
