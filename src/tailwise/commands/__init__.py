"""The commands of ``tailwise``: one module each, with its options and what it does."""
