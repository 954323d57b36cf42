"""What tells one file from another."""

import hashlib
from pathlib import Path

from antvisionps.core.input_files import open_file


def file_sha256(path: Path) -> str:
    """sha256 (hex) of the file's bytes. Raises OSError on what is missing or no file."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
