"""What needs more than the base install says so."""

from collections.abc import Iterator
from contextlib import contextmanager

from antvisionps.core.errors import AntVisionPSError


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turns a missing package into one line that names the extra it comes with."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "antvisionps":
            raise
        raise AntVisionPSError(
            f"{error.name} is not installed; `pip install 'antvisionps[{extra}]'`, or `make setup` for all extras"
        ) from error
