"""What a program gets in PYTHONPATH that imports the tests' own modules."""

from pathlib import Path

import pytest

TEST_PACKAGES = str(Path(pytest.__file__).parents[1])
"""The folder that holds what only tests need; other programs that tests start do without."""
