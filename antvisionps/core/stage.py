"""The options of the stage scripts, and how a program of this package ends: its own errors are lines on stderr."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from antvisionps.core.errors import AntVisionPSError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""

FOLDERS = {
    "prepared": "what stage prepare wrote",
    "work": "folder of checkpoints while training is unfinished",
    "models": "folder of trained networks",
    "predictions": "folder of all ends' caches",
    "routing": "what stage evaluate_heldout wrote",
    "calibration": "what stage calibrate wrote",
    "fused": "folder of all systems' fused maps",
    "metrics": "folder that stage score wrote",
    "overlays": "folder of pictures to write, replaced whole",
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
    """Runs `main`; an AntVisionPSError becomes `error: …` on stderr and exit status 1, Ctrl-C exit status 130."""
    try:
        main()
    except AntVisionPSError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
