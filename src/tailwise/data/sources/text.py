"""Text of label files."""

from __future__ import annotations

from pathlib import Path

from tailwise.errors import InputError


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without byte-order mark, or in UTF-16 with one.

    Raises:
        InputError: the file cannot be read or is not such text; the message names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: begins like UTF-16 text and is not; save the file as UTF-8") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8 text; save the file as UTF-8"
        ) from error
