"""A section of params.yaml as a typed, frozen model, and the only reader of that file.

No field has a default: a tunable stands in params.yaml and nowhere else. Unknown keys, missing keys, wrong types and
values out of range are refused, each with its place in the file.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from antvisionps.core.documents import MAX_FACTOR, Document
from antvisionps.core.errors import ParamsError, clipped, first_line

MAX_COUNT = 10**9
"""Of whatever is only counted; what takes memory, threads or processes has a bound of its own."""

MAX_NODES = 100_000
"""Of a YAML; a params.yaml has some three hundred."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
NonNegative = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveFloat = Annotated[float, Field(gt=0, le=MAX_FACTOR)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=MAX_FACTOR)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
SidePx = Annotated[int, Field(ge=1, le=2**16)]
InputSidePx = Annotated[int, Field(ge=32, le=2**14)]
"""Of what a network sees."""
Boxes = Annotated[int, Field(ge=1, le=100_000)]
"""Of one image: each is compared with each."""
Samples = Annotated[int, Field(ge=1, le=100_000)]
"""Of a bootstrap: each is a row over all images."""


UNWEIGHTED = 1.0
"""How much each counts in a mean without weights, and so what a table of weights does not name."""

RENAMED = {
    f"train_{end}.memory.{key}": f"train_{end}.optimizer.{key}"
    for end in ("e_ups", "lwl_htc", "hrnet_aspp")
    for key in ("autocast", "accumulated_batches")
} | {
    "train_lwl_htc.network": "train_lwl_htc.networks.base, beside train_lwl_htc.members, as every end has them",
    "fuse.routing": "fuse.instance_ensemble; write best_of_class for best_ap, best_overall for single",
    "fuse.method.fusion": "fuse.method, one for all systems, and fuse.methods, a table of exceptions",
}
"""Old key → what to write in its place."""


class Section(Document):
    """Frozen and strict, as Document has it."""


AnySection = TypeVar("AnySection", bound=Section)


def load_section(path: Path, name: str, kind: type[AnySection]) -> AnySection:
    """One checked section of the file. Raises ParamsError with the file, the key, and what was expected and got."""
    document = parse(path, read_text(path))
    if not isinstance(document, dict) or name not in document:
        raise ParamsError(f"{path}: expected a section {name}, got none")
    return check(path, document[name], kind, place=(name,))


def read_text(path: Path) -> str:
    """Without a byte-order mark. Raises ParamsError on a missing file and on bytes that are no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the project's root, where {path.name} is") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); name a YAML file") from error
    except ValueError as error:  # of bytes that are no UTF-8, or a path that no file can have
        raise ParamsError(f"{path}: not valid YAML: {first_line(error)}") from error


def parse(place: object, text: str, *, kind: Literal["safe", "rt"] = "safe") -> Any:
    """The YAML of a text, not checked, with its comments where `kind` is rt. `place`, a file say, is named in errors.

    Raises ParamsError on broken YAML, and on such as would take all memory: nested too deeply, or with aliases that
    stand for more than MAX_NODES values.
    """
    try:
        document = deepcopy(_plain(text)) if kind == "safe" else YAML(typ=kind).load(text)
        _count_nodes(document, {})
    except YAMLError as error:
        raise ParamsError(f"{place}: not valid YAML: {_problem_of(error)}") from error
    except RecursionError:
        raise ParamsError(f"{place}: not valid YAML: nested too deeply") from None
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:  # ruamel's, of odd numbers and tags
        raise ParamsError(f"{place}: not valid YAML: {first_line(error)}") from error
    return document


@lru_cache(maxsize=4)
def _plain(text: str) -> Any:
    """Once for all sections of a file: ruamel takes 60 ms. YAML 1.2 as DVC reads it: `1e-4` is a number and `no` a
    string, unlike in PyYAML."""
    return YAML(typ="safe", pure=True).load(text)  # libyaml dies of deep nesting


def _problem_of(error: YAMLError) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return first_line(error)
    return f"{' '.join(problem.split())} in line {mark.line + 1}, column {mark.column + 1}"


def _count_nodes(node: Any, known: dict[int, int]) -> int:
    """How many values a document has, each alias written out. Raises ValueError beyond MAX_NODES, and on an alias that
    leads back to itself."""
    if not isinstance(node, dict | list | set):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_NODES  # while it is counted
        inner = node.values() if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_count_nodes(value, known) for value in inner)
    if known[id(node)] >= MAX_NODES:
        raise ValueError(f"its aliases stand for more than {MAX_NODES} values, or for themselves; write them out")
    return known[id(node)]


def check(path: Path, document: object, kind: type[AnySection], *, place: tuple[str, ...] = ()) -> AnySection:
    """The document as that section; `place` are the keys at which it stands in the file."""
    renamed = [old for old in RENAMED if _holds({place[0]: document} if place else document, old)]
    if renamed:
        raise ParamsError("\n".join(f"{path}: {old}: this key is now {RENAMED[old]}" for old in renamed))
    try:
        return kind.model_validate(_lists_to_tuples(document))
    except ValidationError as error:
        raise ParamsError(_explain(path, error, place)) from error


def _holds(node: object, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True


def _lists_to_tuples(node: object) -> object:
    if isinstance(node, dict):
        return {key: _lists_to_tuples(value) for key, value in node.items()}
    if isinstance(node, list):
        return tuple(_lists_to_tuples(value) for value in node)
    return node


def _explain(path: Path, error: ValidationError, above: tuple[str, ...]) -> str:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in (*above, *problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key; remove it or mend its spelling"
        got = f", got {clipped(problem['input'])}" if problem["type"] not in ("missing", "value_error") else ""
        lines.append(": ".join(part for part in (str(path), place, message) if part) + got)
    return "\n".join(lines)


def full_weights(weights: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """The weight of each of the names: what the table says, else as without weights."""
    return {name: weights.get(name, UNWEIGHTED) for name in names}


def refuse_empty(place: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ValueError(f"{place} is empty; name at least one")


def refuse_repeats(place: str, names: tuple[str, ...]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{place} lists {name} twice")


def refuse_zeros(place: str, weights: Iterable[float]) -> None:
    if not any(weights):
        raise ValueError(f"{place} are all zero; give at least one a positive weight")
