"""A Dask cluster of two processes at 127.0.0.1, which gives a task up when its worker dies.

Run as a script: prints the scheduler's address, and ends when its standard input does.
"""

from __future__ import annotations

import sys

import dask
from distributed import LocalCluster


def main() -> None:
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
