"""What continuous integration runs, and in which folder."""

import os
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_continuous_integration_skips_no_test_for_want_of_a_browser_or_slurm(tmp_path):
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "CI=$CI $*" in "$PWD"\n')
    make.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run([PROJECT / ".ci" / "run"], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == f"CI=1 --no-print-directory test in {PROJECT}\n"


def test_the_tests_find_their_packages_in_a_folder_with_a_space(tmp_path):
    folder = tmp_path / "my projects"
    folder.mkdir()
    shutil.copy(PROJECT / "Makefile", folder)
    show = ["make", "--silent", "--eval", "show: ; $(WITH_TESTS) printenv PYTHONPATH", "show"]
    shown = subprocess.run(show, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert shown == f"{folder}/.venv/tests\n"
