"""Findings about an installation or a planned run, printed with what mends them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from antvisionps.preflight.doctor import Finding


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
