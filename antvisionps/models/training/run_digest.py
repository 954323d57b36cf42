"""What an interrupted run has to have in common with the one that goes on where it stopped."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def run_digest(settings: Sequence[Any]) -> str:
    """A name for a run: the same only for the same settings, as JSON has them, torch and code of antvisionps.models."""
    digest = hashlib.sha256(json.dumps([settings, torch.__version__], sort_keys=True).encode())
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
