"""Poor rows of a file that are left out, so that one of them does not stop the others: counted, and said once."""

import sys


class SkippedRows:
    """What is left out of one file, by kind: how many, and the first."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._count_of: dict[str, int] = {}
        self._first_of: dict[str, str] = {}

    def add(self, kind: str, example: str) -> None:
        """`kind` says what such rows are, in the plural, and what is done with them."""
        self._count_of[kind] = self._count_of.get(kind, 0) + 1
        self._first_of.setdefault(kind, example)

    def tell(self) -> None:
        """A warning on stderr for each kind."""
        for kind, count in self._count_of.items():
            print(f"warning: {self._where}: {count} {kind}; first: {self._first_of[kind]}", file=sys.stderr)
