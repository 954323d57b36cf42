"""JSON documents that our own stages write, read back as typed, frozen models.

Unknown keys, missing keys, keys that are there twice, wrong types and values out of range are refused: what has passed
is what the stage wrote, or something that it could have written.
"""

import json
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from antvisionps.core.errors import AntVisionPSError, CacheError, clipped
from antvisionps.core.json_files import read_json

MAX_FACTOR, MIN_WEIGHT = 1e6, 1e-6
"""Beyond them, sums in float32 lose what they are to weigh."""


def _refuse_tiny(weight: float) -> float:
    if 0 < weight < MIN_WEIGHT:
        raise ValueError(f"expected 0, or a weight of at least {MIN_WEIGHT:g}, got {weight!r}")
    return weight


Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=MAX_FACTOR), AfterValidator(_refuse_tiny)]


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


AnyDocument = TypeVar("AnyDocument", bound=BaseModel)


def read_document(
    path: Path, kind: type[AnyDocument], *, what: str, remedy: str, error: type[AntVisionPSError] = CacheError
) -> AnyDocument:
    """The file as a document of that kind. Raises `error` in one line: the file, the first place that is wrong, what
    was expected there and got, and the `remedy`."""
    document = read_json(path, what=what, remedy=remedy, error=error, allow_repeats=False)
    try:
        # By JSON once more: of Python's objects, the strict mode takes no list for a tuple.
        return kind.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as problem:
        raise error(f"{path}: not the {what} that is expected: {explain_first(problem)}; {remedy}") from problem


def explain_first(problem: ValidationError) -> str:
    """The first place that is wrong, what was expected there and got; how many more there are."""
    first, *others = problem.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "missing" else f", got {clipped(first['input'])}"
    more = f" (and {len(others)} more)" if others else ""
    return ": ".join(part for part in (place, message) if part) + got + more
