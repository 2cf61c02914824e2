"""A piece in the smallest pieces: characters, or bytes where a tokenizer falls back on them."""

from __future__ import annotations

from collections.abc import Container


def spelled(piece: str, known: Container[str], *, bytewise: bool) -> list[str]:
    """The characters of ``piece``; with ``bytewise`` the bytes of those that are not ``known``.

    >>> spelled("aß", {"a"}, bytewise=True)
    ['a', '<0xC3>', '<0x9F>']
    """
    if not bytewise:
        return list(piece)
    if is_byte(piece):
        return [piece]
    return [
        each
        for character in piece
        for each in ([character] if character in known else [f"<0x{byte:02X}>" for byte in character.encode()])
    ]


def is_byte(piece: str) -> bool:
    """Whether a piece stands for one byte: ``<0xC3>``."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
