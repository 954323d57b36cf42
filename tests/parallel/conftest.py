import logging

import dask
import pytest
from distributed import LocalCluster


@pytest.fixture(scope="session")
def address():
    """Of a real Dask cluster of two processes of this machine that gives a task up when its worker dies."""
    size = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(**size, silence_logs=logging.CRITICAL) as running,
    ):
        yield running.scheduler_address
