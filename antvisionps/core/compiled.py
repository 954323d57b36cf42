"""How functions are compiled: by numba, to machine code that is kept on disk.

Numba takes half a second to import. So only modules named `…kernels` import this one, and only a function that is
about to call a kernel imports those. A kernel takes and fills arrays; it knows no files, no classes and no errors of
this package. It calls nothing of another module but this one, because the kept code does not notice a change there.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def frozen(dtype: str, ndim: int) -> types.Array:
    """The type of an array that a kernel only reads: C order, writeable or not."""
    return types.Array(getattr(types, dtype), ndim, "C", readonly=True)


def filled(dtype: str, ndim: int) -> types.Array:
    """The type of an array that a kernel writes to, in C order."""
    return types.Array(getattr(types, dtype), ndim, "C")


def compiled(*signatures: Any) -> Callable[[Function], Function]:
    """Compiles a function for these types when its module is imported, or loads what an earlier process compiled.

    The code is kept beside the module; where that cannot be written to, in numba's folder of the user or in
    NUMBA_CACHE_DIR. Files appear there whole, so processes may compile at once. Where no folder can be written to, each
    process compiles for itself, which takes seconds. The compiler rounds as numpy does: it may not reorder sums, and
    does not fuse a multiplication with an addition.
    """

    def compile_or_load(function: Function) -> Function:
        try:
            kernel: Any = numba.njit(list(signatures), cache=True, **OPTIONS)(function)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            kernel = numba.njit(list(signatures), **OPTIONS)(function)
        return cast(Function, kernel)

    return compile_or_load


def inlined(function: Function) -> Function:
    """A part of kernels of the same module, compiled into each.

    Its inner loops should index whole arrays: numba counts the references to each slice that is taken, which costs more
    than a short loop.
    """
    part: Any = numba.njit(**OPTIONS)(function)
    return cast(Function, part)
