"""How deep a JSON is nested, told while it is read piece by piece."""

from typing import BinaryIO

MAX_DEPTH = 500
"""About what Python's own reader takes; ijson's memory grows with the square of the depth."""

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class ShallowJson:
    """A binary file to hand to ijson. `read` raises ValueError where a JSON is nested deeper than MAX_DEPTH."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._depth = 0
        self._is_in_string = False
        self._kept = b""

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        outside = self._outside_strings(self._kept + data)
        brackets = outside.translate(None, _NO_BRACKETS)
        if self._depth + brackets.count(b"[") + brackets.count(b"{") > MAX_DEPTH:
            self._refuse_depth(brackets)
        self._depth += len(brackets) - 2 * (brackets.count(b"]") + brackets.count(b"}"))
        return data

    def _outside_strings(self, text: bytes) -> bytes:
        """What stands in no string; a backslash at the end is kept for the next piece."""
        if b"\\" in text:
            text = text.replace(b"\\\\", b"")
            text, self._kept = (text[:-1], b"\\") if text.endswith(b"\\") else (text, b"")
            text = text.replace(b'\\"', b"")
        else:
            self._kept = b""
        pieces = text.split(b'"')
        outside = b"".join(pieces[self._is_in_string :: 2])
        self._is_in_string ^= len(pieces) % 2 == 0
        return outside

    def _refuse_depth(self, brackets: bytes) -> None:
        depth = self._depth
        for bracket in brackets:
            depth += 1 if bracket in b"[{" else -1
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
