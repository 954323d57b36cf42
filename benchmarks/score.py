"""How fast PQ comes from two folders of PNGs, by this package and by others, on the same files in turns.

    python -m benchmarks.score --images 2000

makes a COCO-like truth and a prediction as panopticapi writes them (random colours, PNGs of Pillow), in a temporary
folder. hotcoco and vernier are timed where they are installed. Then it times the decoders alone, of those installed, on
the same PNGs.
"""

import argparse
import contextlib
import gc
import importlib
import io
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from panopticapi import evaluation
from panopticapi.utils import id2rgb
from PIL import Image

from antvisionps.panoptic.coco_json import write_panoptic_json
from antvisionps.panoptic.png import decode_segment_ids
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.pipeline.score_results import panoptic_quality
from benchmarks.coco_like import CATEGORIES, HEIGHT, WIDTH, make_scene
from benchmarks.cpu_time import cpu_s

Way = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--distinct", type=int, default=50, help="images that differ; the rest repeat them")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, images=arguments.images, distinct=arguments.distinct)
        cores = len(os.sched_getaffinity(0))
        print(f"{arguments.images} images of {HEIGHT}x{WIDTH}, {cores} cores, {processor()}; ms an image")
        time_in_turns(dict(scorers(root, cores)), arguments.images, arguments.rounds)
        pngs = [path.read_bytes() for path in sorted((root / "gt").iterdir())[: arguments.distinct]]
        print(f"\none PNG of {np.mean([len(png) for png in pngs]):.0f} bytes")
        each = {name: lambda decode=decode: sum(decode(png) is None for png in pngs) for name, decode in decoders()}
        time_in_turns(each, len(pngs), arguments.rounds, shows_value=False)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def write_files(root: Path, *, images: int, distinct: int) -> None:
    """gt.json and pred.json with a folder of PNGs beside each. The prediction is the truth, moved by some pixels."""
    rng = np.random.default_rng(0)
    scenes = [make_scene(rng) for _ in range(min(distinct, images))]
    for which, moved_by in (("gt", 0), ("pred", 3)):
        (root / which).mkdir()
        drawn = []
        for index, scene in enumerate(scenes):
            colors = np.append(0, rng.choice(2**24 - 1, scene.segment_ids.max(), replace=False) + 1)
            ids = colors[np.roll(scene.segment_ids, moved_by, axis=(0, 1))]
            categories = {int(colors[key]): value for key, value in scene.category_of_segment.items()}
            Image.fromarray(id2rgb(ids)).save(root / which / name_of(index))
            drawn.append(measure_segments(ids, category_ids=categories))
        for index in range(len(scenes), images):
            (root / which / name_of(index)).hardlink_to(root / which / name_of(index % len(scenes)))
        listed = [PanopticImage(n, f"{n}.jpg", name_of(n), HEIGHT, WIDTH, drawn[n % len(drawn)]) for n in range(images)]
        write_panoptic_json(root / f"{which}.json", categories=CATEGORIES, images=listed)


def name_of(index: int) -> str:
    return f"{index:06d}.png"


def scorers(root: Path, cores: int) -> Iterator[tuple[str, Way]]:
    """Each gives the PQ of all categories."""
    places = [str(root / name) for name in ("gt.json", "pred.json", "gt", "pred")]
    gt, pred = (places[0], places[2]), (places[1], places[3])
    yield f"antvisionps, {cores} processes", lambda: panoptic_quality(gt, pred, workers=cores).all.pq
    yield "antvisionps, 1 process", lambda: panoptic_quality(gt, pred).all.pq
    yield "panopticapi", lambda: float(quietly(evaluation.pq_compute, places)["All"]["pq"])
    if hotcoco := installed("hotcoco.panoptic"):
        yield "hotcoco", lambda: quietly(hotcoco.pq_compute, places)["All"]["pq"]
    if vernier := installed("vernier.panoptic"):
        yield "vernier", lambda: vernier_pq(vernier, root)


def vernier_pq(vernier: Any, root: Path) -> float:
    """It takes maps in memory: all of them at once."""
    arguments = {}
    for which in ("gt", "pred"):
        document = json.loads((root / f"{which}.json").read_text())
        rows = document["annotations"]
        maps = {row["image_id"]: vernier.decode_label_map_png(root / which / row["file_name"]) for row in rows}
        segments = json.dumps({row["image_id"]: row["segments_info"] for row in rows}).encode()
        arguments[which] = (maps, segments)
    gt = vernier.Dataset.from_arrays(*arguments["gt"], json.dumps(CATEGORIES.to_json()).encode())
    found = vernier.Evaluator(parity_mode="strict").evaluate(gt, vernier.Predictions.from_arrays(*arguments["pred"]))
    return float(found.pq)


def quietly(score: Callable[..., Any], places: list[str]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return score(*places)


def decoders() -> Iterator[tuple[str, Callable[[bytes], Any]]]:
    yield "antvisionps: checks, kornia, segment ids", decode_segment_ids
    if kornia := installed("kornia_rs.io"):
        yield "kornia", lambda png: kornia.decode_image_png_u8(png, (HEIGHT, WIDTH), "rgb")
    yield "OpenCV", lambda png: cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    yield "Pillow", lambda png: np.asarray(Image.open(io.BytesIO(png)))
    if imagecodecs := installed("imagecodecs"):
        yield "imagecodecs", imagecodecs.png_decode
    if pyspng := installed("pyspng"):
        yield "pyspng", pyspng.load
    if pyvips := installed("pyvips"):
        yield "pyvips", lambda png: pyvips.Image.new_from_buffer(png, "").numpy()


def installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def time_in_turns(ways: dict[str, Way], images: int, rounds: int, *, shows_value: bool = True) -> None:
    """Medians by the clock and of CPU: a machine that others share is now slower and now faster."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    values = {}
    for _ in range(rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), cpu_s()
            values[name] = way()
            wall = time.perf_counter() - wall
            end_processes()
            times[name].append((wall, cpu_s() - cpu))
    print(f"{'':44s}{'clock':>9s}{'CPU':>9s}")
    for name, of_rounds in times.items():
        value = f"   PQ {100 * values[name]!r}" if shows_value else ""
        print(f"{name:44s}" + "".join(f"{1000 * v / images:9.2f}" for v in np.median(of_rounds, axis=0)) + value)


def end_processes() -> None:
    """Of pools that nobody closed, as panopticapi's, so that their CPU counts where it was spent."""
    gc.collect()
    for process in multiprocessing.active_children():
        process.join()


if __name__ == "__main__":
    main()
