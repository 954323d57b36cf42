"""How many processes a command takes."""

import os
from argparse import ArgumentParser

from antvisionps.cli.workers import add_workers_option, chosen_workers


def test_without_a_number_there_is_a_process_for_each_core_on_any_system(monkeypatch):
    parser = ArgumentParser()
    add_workers_option(parser)
    assert chosen_workers(parser.parse_args(["--workers", "3"])) == 3
    assert chosen_workers(parser.parse_args([])) == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert chosen_workers(parser.parse_args([])) == os.cpu_count()
