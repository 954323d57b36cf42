"""joblib's backend for Dask, which also hears of work that Dask gives up.

joblib 1.6 waits for ever for a task that Dask ends with an error, as one whose workers died or that no worker could
load, and takes a cancelled task's error for its result.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib._dask import DaskDistributedBackend


class AttentiveDaskBackend(DaskDistributedBackend):
    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None]) -> Future:
        def tell(done: Future) -> None:
            if (error := done.exception()) is not None:
                callback(error)

        future: Future = super().submit(func, callback)
        future.add_done_callback(tell)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        if isinstance(out, BaseException):
            raise out
        return super().retrieve_result_callback(out)
