"""The error that means "your input, not our code": the command line prints it without a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what was given, what was expected and the way out."""
