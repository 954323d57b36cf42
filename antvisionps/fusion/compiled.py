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
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

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

    It must not allocate an array, nor copy a part of one to another in one statement: it is compiled without numba's
    counting of references to arrays, which costs more than a short inner loop for each slice that is taken.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
    part: Any = numba.njit(**options)(function)
    return cast(Function, part)


def _generate_first_byte(typing_context: Any, word: Any) -> Any:

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        zeros = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))
        return builder.lshr(zeros, ir.Constant(zeros.type, 3))

    return types.int64(types.uint64), generate


first_byte: Any = intrinsic(_generate_first_byte)
"""Of eight bytes of 0 and 1, read as a uint64 that is not 0: which is the first 1. `word & (word - 1)` is without it. A
loop over what few bytes are 1 is so free of guesses that the processor gets wrong. Little-endian."""
