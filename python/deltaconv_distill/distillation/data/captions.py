"""Captions and metadata as text, whatever wrote them: UTF-8 with or without a byte-order mark, or marked UTF-16."""

from __future__ import annotations

import codecs

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_text(content: bytes, name: str) -> str:
    """The text without its byte-order mark.

    Args:
        name: what the error calls it.

    Raises:
        ValueError: it is in another encoding.
    """
    encoding = "utf-16" if content.startswith(UTF_16_MARKS) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: expected UTF-8, or UTF-16 with a byte-order mark; byte {hex(content[error.start])} at "
            f"{error.start} is neither (for Latin-1: iconv -f latin1 -t utf-8)"
        ) from error
