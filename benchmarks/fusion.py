"""How fast the stages `fuse` and `score` are: against doing it the plain way, and against the floor.

    python -m benchmarks.fusion --images 2000 --fewer-images 500 --distinct 50 --plain-images 24

makes a COCO-like split and the caches of two ends in a temporary folder, then times, on the same cores:

plain   full-resolution bilinear maps of all 133 classes from both ends, averaged, argmax; RLE of every stuff class;
        panopticapi's combine; panopticapi's PQ. The 160 MB of maps an image that have to be read where there is no such
        cache are left out.
ours    `stages/fuse.py` and `stages/score.py` (without the error budget) as DVC runs them, start-up included. Timed on
        fewer images too, they tell what an image more costs, and by that what 5,000 take.
floor   only decoding the caches' planes, encoding the maps, and reading the runs that are scored.

Plain and ours are timed in turns, --rounds times: a machine that others share is now slower and now faster. Printed
are medians, and of their ratio the least and the most too.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import hotcoco.panoptic as hotcoco
import numpy as np

from antvisionps.fusion.system import load_kernels
from antvisionps.panoptic.png import encode_segment_ids
from antvisionps.panoptic.segment_runs import IMAGES_PER_GROUP, SegmentRunsReader
from antvisionps.panoptic.splits import open_split, runs_path
from antvisionps.parallel.images import map_images
from antvisionps.pipeline.score import score_systems
from antvisionps.predictions.fused_files import open_fused
from antvisionps.predictions.schema import SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from benchmarks.coco_like import CATEGORIES, HEIGHT, STRIDE_OF_END, WIDTH, cache_paths, write_coco_like
from benchmarks.coco_like_stages import add_options, apart, run_stage, score_options, write_params
from benchmarks.cpu_time import cpu_s
from benchmarks.plain_fusion import coco_results, plain_steps

FLOOR = "floor: decode cache, write PNGs, read runs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, images=400, distinct=50)
    parser.add_argument("--fewer-images", type=int, default=100, help="images of the second timing of ours")
    parser.add_argument("--plain-images", type=int, default=40, help="images that the plain way is timed on")
    parser.add_argument("--rounds", type=int, default=3, help="times that plain and ours are timed, in turns")
    parser.add_argument("--work", type=Path, help="keep the generated files here, and use those of an earlier run")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fewer = root / "fewer"
        for place, images in ((root, arguments.images), (fewer, arguments.fewer_images)):
            if not (place / "routing").is_dir():
                apart(write_coco_like, place, images=images, distinct=arguments.distinct)
        timed_by = {"plain_images": arguments.plain_images, "workers": arguments.workers, "rounds": arguments.rounds}
        benchmark(root, images=arguments.images, **timed_by)
        print_growth(root, fewer, images=(arguments.images, arguments.fewer_images), workers=arguments.workers)
        print_sizes(root, arguments.images)


def print_sizes(root: Path, images: int) -> None:
    caches = sum(path.stat().st_size for path in (root / "predictions").rglob("*.parquet"))
    float16_maps = 2 * len(STRIDE_OF_END) * len(CATEGORIES) * HEIGHT * WIDTH
    results = sum(len(json.dumps(row)) for row in coco_results(root, range(10))) / 10
    print(f"\ncache, bytes an image, both ends   {caches / images:12,.0f}")
    print(f"as full float16 maps                {float16_maps:12,.0f}")
    print(f"its instances as COCO results JSON  {results:12,.0f}")


def print_growth(root: Path, fewer: Path, *, images: tuple[int, int], workers: int) -> None:
    """What an image more costs, from timings right behind each other, and so start-up and 5,000 images."""
    totals = [
        n * np.array(time_ours(place, n, workers)["ours: all"]) for place, n in zip((root, fewer), images, strict=True)
    ]
    an_image = (totals[0] - totals[1]) / (images[0] - images[1])
    start_up = totals[1] - images[1] * an_image
    for name, values, unit in (("an image more", an_image, "ms"), ("start-up", start_up / 1000, "s")):
        print(f"ours: {name}, {unit} of wall clock (and of CPU)".ljust(44) + "".join(f"{v:9.2f}" for v in values))
    print(f"5,000 images, start-up included: {(start_up[0] + 5000 * an_image[0]) / 1000:.0f} s")


def benchmark(root: Path, *, images: int, plain_images: int, workers: int, rounds: int) -> None:
    print(f"\n{images} images, {workers} workers; plain on {plain_images}; ms an image of wall clock (and of CPU)")
    load_kernels()  # compiles them, if nothing has since the installation
    timed_rounds = [time_plain(root, plain_images, workers) | time_ours(root, images, workers) for _ in range(rounds)]
    rows = {name: np.median([of_round[name] for of_round in timed_rounds], axis=0) for name in timed_rounds[0]}
    once = time_floor(root, images, workers) | time_scoring(root, images)
    for name, (wall, cpu) in (rows | once).items():
        print(f"{name:44s}{wall:9.2f}{cpu:9.2f}")
    ratios = np.array([np.divide(of_round["plain: all"], of_round["ours: all"]) for of_round in timed_rounds])
    for name, values in (
        ("plain / ours", np.median(ratios, axis=0)),
        ("  the least of the rounds", ratios.min(axis=0)),
        ("  the most", ratios.max(axis=0)),
        ("plain / floor", np.divide(rows["plain: all"], once[FLOOR])),
    ):
        print(f"{name:44s}" + "".join(f"{value:9.1f}" for value in values))
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of the largest process: {peak_mib:.0f} MiB")


def timed(run: Callable[[], Any], images: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), cpu_s()
    run()
    return 1000 * (time.perf_counter() - wall) / images, 1000 * (cpu_s() - cpu) / images


def add(rows: dict[str, tuple[float, float]]) -> tuple[float, float]:
    return sum(wall for wall, _ in rows.values()), sum(cpu for _, cpu in rows.values())


def time_plain(root: Path, images: int, workers: int) -> dict[str, tuple[float, float]]:
    rows = {name: timed(step, images) for name, step in plain_steps(root, images, workers).items()}
    return rows | {"plain: all": add(rows)}


# Ours


def time_ours(root: Path, images: int, workers: int) -> dict[str, tuple[float, float]]:
    write_params(root, systems=["fusion"], workers=workers, boundary_pq=False)  # as the plain way
    fused = root / "fused"
    shutil.rmtree(fused, ignore_errors=True)  # as DVC does before it runs a stage
    score = partial(run_stage, "score", root, *score_options(root), "--no-error-budget")
    rows = {
        "ours: stage fuse": timed(partial(run_stage, "fuse", root, "--out", fused), images),
        "ours: stage score": timed(score, images),
    }
    return rows | {"ours: all": add(rows)}


def time_scoring(root: Path, images: int) -> dict[str, tuple[float, float]]:
    """PQ of the fused maps alone, without start-up, by this package and by hotcoco (which uses every core)."""
    truth = open_split(root / "prepared", "val")
    cores = len(os.sched_getaffinity(0))

    def ours() -> None:
        systems = {"fusion": open_fused(root / "fused" / "fusion", truth)}
        score_systems(truth, systems, prepared=root / "prepared", with_boundary=False, workers=cores)

    def theirs() -> None:
        folders = [str(root / "prepared" / "panoptic_val"), str(root / "fused" / "fusion" / "panoptic")]
        with contextlib.redirect_stdout(io.StringIO()):
            hotcoco.pq_compute(str(truth.annotations), str(root / "fused" / "fusion" / "panoptic.json"), *folders)

    return {f"PQ alone: ours, {cores} processes": timed(ours, images), "PQ alone: hotcoco": timed(theirs, images)}


# The floor


def time_floor(root: Path, images: int, workers: int) -> dict[str, tuple[float, float]]:
    def run() -> None:
        for _ in map_images(partial(_open_floor, root), range(images), workers=workers, description="floor"):
            pass

    return {FLOOR: timed(run, images)}


def _open_floor(root: Path) -> Callable[[int], None]:
    cv2.setNumThreads(1)
    readers = [SemanticReader(path) for path in cache_paths(root, SEMANTIC_FILE)]
    truth, out = open_split(root / "prepared", "val"), root / "floor"
    gt_runs = SegmentRunsReader(runs_path(root / "prepared"), truth.images, remedy="")
    out.mkdir(exist_ok=True)
    maps = [truth.load_segment_ids(image) for image in truth.images[:8]]

    def decode_and_encode(image_id: int) -> None:
        for reader in readers:
            reader.read(image_id)
        image = truth.images[image_id]
        (out / image.panoptic_file_name).write_bytes(encode_segment_ids(maps[image_id % len(maps)]))
        if image_id % IMAGES_PER_GROUP == 0:
            for _ in range(2):  # of the truth and, as many, of the fused maps
                gt_runs.read(image_id // IMAGES_PER_GROUP)

    return decode_and_encode


if __name__ == "__main__":
    main()
