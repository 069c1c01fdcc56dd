"""Compiled loops, where one operation after the other would move the same numbers many times."""
