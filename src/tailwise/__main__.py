"""The command ``tailwise``, also as ``python -m tailwise``."""

import sys

from tailwise.errors import MissingExtraError, require_extra


def main() -> int:
    """Run the command line of the process; see :func:`tailwise.cli.main`.

    Returns:
        Its exit code; 2, with one line on standard error, where only the losses are installed.
    """
    try:
        require_extra("the command tailwise")
    except MissingExtraError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    from tailwise.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
