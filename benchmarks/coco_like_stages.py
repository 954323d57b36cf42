"""Runs stages on what `write_coco_like` made below a folder, as DVC does: each in a process of its own."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[1]
MIN_STUFF_AREA_PX = 4096
READ = ("prepared", "predictions", "routing", "calibration")
"""What all stages after calibrate read."""


def add_options(parser: argparse.ArgumentParser, *, images: int, distinct: int) -> None:
    """How many images `write_coco_like` makes, and processes that the stages have; the numbers are defaults."""
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--distinct", type=int, default=distinct, help="images that differ; the rest repeat them")
    parser.add_argument("--workers", type=int, default=2)


def write_params(root: Path, *, systems: Sequence[str], workers: int, method: str = "heuristic", **score: int) -> None:
    """ROOT/params.yaml: the built-in ones of two ends, these systems, COCO's smallest stuff segment and no pictures."""
    yaml = YAML(typ="safe")
    document = yaml.load(PROJECT / "params.yaml")
    document["fuse"] |= {"method": method, "systems": list(systems), "min_stuff_area_px": MIN_STUFF_AREA_PX}
    document["ends"], document["predict"]["separate_ends"] = ["e_ups", "lwl_htc"], ["e_ups", "lwl_htc"]
    document["train_hrnet_aspp"]["members"] = []
    document["score"] |= {"overlay_images": 0, **score}
    document["runtime"]["workers"] = workers
    with (root / "params.yaml").open("w") as file:
        yaml.dump(document, file)


def apart(write: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Calls `write` in a process of its own: what is timed is forked, and a fork of a user of Arrow may hang."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(write, *arguments, **named).result()


def run_stage(name: str, root: Path, *options: Any, read: Sequence[str] = READ) -> None:
    """`stages/NAME.py` with the folders below `root` that it reads, and with these options."""
    places = {"params": root / "params.yaml"} | {folder: root / folder for folder in read}
    words = [word for name, place in places.items() for word in (f"--{name}", place)]
    command = [sys.executable, PROJECT / "stages" / f"{name}.py", *words, *options]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, env=environment)


def score_options(root: Path) -> list[Any]:
    return ["--fused", root / "fused", "--out", root / "metrics", "--scores", root / "scores"]
