"""`antvisionps doctor`: what is installed; and findings of it or of a planned run, printed with what mends them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from antvisionps.preflight.doctor import Finding


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("doctor", help="what is installed, what is missing, and how to mend it")
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> None:
    from antvisionps.preflight.doctor import examine

    report(examine(Path()))


def report(findings: Iterable[Finding]) -> None:
    """A line each, then every remedy once. Exit status 1 where something is wrong."""
    printed = []
    for finding in findings:
        print(f"{finding.severity:6}{finding.subject:33} {finding.message}", flush=True)
        printed.append(finding)
    remedies = dict.fromkeys(f.remedy for f in printed if f.remedy and f.severity == "wrong")
    hints = dict.fromkeys(f.remedy for f in printed if f.remedy and f.severity == "note")
    for heading, commands in (("To mend what is wrong:", remedies), ("Worth a look:", hints)):
        if commands:
            print("", heading, *(f"  {command}" for command in commands), sep="\n")
    if any(finding.severity == "wrong" for finding in printed):
        raise SystemExit(1)
