"""The run-time type checker of the tests: a whole number is also a float, as type checkers have it."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
