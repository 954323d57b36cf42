"""The options of the stage scripts, and how a program of this package ends: its own errors are lines on stderr."""

import argparse
import os
import select
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from antvisionps.core.errors import AntVisionPSError
from antvisionps.core.os_errors import explain

# numpy's sums would depend on how many cores there are. Before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""

CLOSED_PIPE = 141
"""Likewise of a program whose output nobody reads any more: 128 + SIGPIPE."""

FOLDERS = {
    "prepared": "what stage prepare wrote",
    "work": "folder that keeps what is done until the stage is finished",
    "models": "folder of trained networks",
    "predictions": "folder of all ends' caches",
    "routing": "what stage evaluate_heldout wrote",
    "calibration": "what stage calibrate wrote",
    "fused": "folder of all systems' fused maps",
    "metrics": "folder that stage score wrote",
    "scores": "what stage score counts of each image and class, and its pictures",
    "out": "folder to write, replaced whole",
}
"""What a stage reads and writes: the options that it can have, and their help."""


def stage_parser(description: str | None, *folders: str) -> argparse.ArgumentParser:
    """The parser of --params and of an option for each of these FOLDERS."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    for name in folders:
        parser.add_argument(f"--{name}", type=Path, required=True, help=FOLDERS[name])
    return parser


def run_stage(main: Callable[[], None]) -> None:
    """Runs `main`. Its end is for people: an AntVisionPSError, and an error of the operating system, become `error: …`
    on stderr and exit status 1, Ctrl-C exit status 130, output that nobody reads any more CLOSED_PIPE. Other errors
    keep their traceback.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr's: a locale may lack … and –
    try:
        try:
            main()
        finally:
            print(end="", flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except (AntVisionPSError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            _drop_output()
            raise SystemExit(CLOSED_PIPE) from None
        message = explain(error)
        if message is None:
            raise
        _drop_output()
        for line in message.splitlines():
            print(f"error: {line}", file=sys.stderr)
        raise SystemExit(1) from None


def _is_unread() -> bool:
    """Whether whoever read stdout or stderr, `head` say, has seen enough."""
    streams = select.poll()
    for descriptor in (1, 2):
        streams.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in streams.poll(0))


def _drop_output() -> None:
    """Has Python's last flush of stdout go nowhere, where it cannot be written."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
