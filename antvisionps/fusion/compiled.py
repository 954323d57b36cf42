"""How functions are compiled: by numba, to machine code that is kept on disk.

Only modules named `…kernels` import this one, and only functions import those, where they are about to call one: numba
takes half a second to import, and what never fuses should not wait for it. Kernels know no files, no classes and no
errors of this package, take and fill arrays, and call nothing of other modules but this one, which the kept code would
not notice a change of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])


def frozen(dtype: str, ndim: int) -> types.Array:
    """The type of an array that a kernel only reads: C order, writeable or not."""
    return types.Array(getattr(types, dtype), ndim, "C", readonly=True)


def filled(dtype: str, ndim: int) -> types.Array:
    """The type of an array that a kernel writes to, in C order."""
    return types.Array(getattr(types, dtype), ndim, "C")


def compiled(*signatures: Any) -> Callable[[Function], Function]:
    """Compiles a function for these types when its module is imported, or loads what an earlier process compiled.

    The code is kept beside the module, or where that cannot be written to, in numba's folder of the user or
    NUMBA_CACHE_DIR, under the processor's name. Files appear there whole, so processes may compile at once. Where no
    folder can be written to, each process compiles for itself, which takes seconds. No option lets the compiler round
    otherwise than numpy does, and it fuses no multiplication with an addition on its own.
    """

    def compile_or_load(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            kernel: Any = numba.njit(list(signatures), cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            kernel = numba.njit(list(signatures), **options)(function)
        return cast(Function, kernel)

    return compile_or_load


def inlined(function: Function) -> Function:
    """A part of kernels of the same module, compiled into each.

    Its inner loops should index whole arrays: numba counts the references to each slice that is taken, which costs more
    than a short loop.
    """
    part: Any = numba.njit(nogil=True, error_model="numpy")(function)
    return cast(Function, part)
