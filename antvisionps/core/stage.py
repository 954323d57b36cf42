"""How a program of this package ends: its own errors are lines on stderr, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from antvisionps.core.errors import AntVisionPSError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells: 128 + SIGINT."""


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
