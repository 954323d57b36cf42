"""`prepare` on annotations as many as COCO's: time, peak memory, and `dvc status` afterwards.

    python -m benchmarks.prepare_scale                     # 118,287 + 5,000 images
    python -m benchmarks.prepare_scale --images 5000 500   # quickly
    python -m benchmarks.prepare_scale --instances         # and a JSON of train's instances, a polygon for each thing

makes a folder in COCO's panoptic layout: JSONs with the fields and the number of segments of COCO's, photos and PNGs of
24 x 24 px, every photo different from the others in its pixels. Then, in a copy of the project with a DVC repository of
its own, `dvc repro prepare` and `dvc status` run as people run them. Writes nothing outside a temporary folder (1 GB).
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from ruamel.yaml import YAML

from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import measure_segments
from antvisionps.params.profiles import compose
from antvisionps.preflight.images import coco_like_categories
from benchmarks.cpu_time import cpu_s

PROJECT = Path(__file__).parents[1]
COCO_IMAGES = (118287, 5000)
SIDE_PX = 24
DISTINCT_MAPS = 512
CORNERS = 25
"""About COCO's mean number of corners an instance."""
SEGMENTS = 11
"""COCO's mean number of segments an image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs=2, default=COCO_IMAGES, metavar=("TRAIN", "VAL"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--instances", action="store_true")
    parser.add_argument("--temporary", type=Path, help="folder for the temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.temporary) as temporary:
        root, project = Path(temporary, "coco"), Path(temporary, "project")
        started = time.perf_counter()
        for split, images in zip(("train2017", "val2017"), arguments.images, strict=True):
            write_split(root, split, images)
        if arguments.instances:
            write_instances(root / "annotations")
        print(f"made {sum(arguments.images):,} images in {time.perf_counter() - started:.0f} s")
        for path in sorted((root / "annotations").glob("*.json")):
            print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
        copy_project(project, root, workers=arguments.workers, with_instances=arguments.instances)
        run(project, "dvc", "init", "--quiet")
        print("dvc repro prepare:", run(project, "dvc", "repro", "prepare"))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(f"largest process: {peak:.2f} GiB")
        print("dvc status:", run(project, "dvc", "status", "--quiet", ok=(0, 1)))


def write_split(root: Path, split: str, images: int) -> None:
    """A split in COCO's layout; image ids are odd numbers in train and even ones in val."""
    rng = np.random.default_rng(len(split))
    photos, maps = root / split, root / "annotations" / f"panoptic_{split}"
    photos.mkdir(parents=True)
    maps.mkdir(parents=True)
    drawn = [_draw(rng, maps.parent / f"{split}_{index}.png") for index in range(min(DISTINCT_MAPS, images))]
    photo = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
    rows, annotations = [], []
    for index in range(images):
        image_id = 2 * index + (split == "train2017")
        png, segments = drawn[index % len(drawn)]
        name = f"{image_id:012d}"
        (photos / f"{name}.jpg").write_bytes(_numbered_jpeg(photo, image_id))
        os.link(png, maps / f"{name}.png")
        rows.append(_image_row(image_id, f"{name}.jpg", split))
        annotations.append({"segments_info": segments, "file_name": f"{name}.png", "image_id": image_id})
    for png, _ in drawn:
        png.unlink()
    categories = coco_like_categories().to_json()
    document = {"info": {}, "licenses": [], "images": rows, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def write_instances(annotations: Path) -> None:
    """A polygon of CORNERS corners for each thing of train's panoptic JSON."""
    document = json.loads((annotations / "panoptic_train2017.json").read_text())
    things = {category["id"] for category in document["categories"] if category["isthing"]}
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * SIDE_PX / 3
    rng = np.random.default_rng(0)
    rows = []
    for annotation in document["annotations"]:
        for segment in annotation["segments_info"]:
            if segment["category_id"] in things:
                corners = np.round(circle + rng.uniform(0, SIDE_PX, 2), 2).ravel().tolist()
                row = {"segmentation": [corners], "area": 1.5, "iscrowd": 0, "image_id": annotation["image_id"]}
                row |= {"bbox": segment["bbox"], "category_id": segment["category_id"], "id": len(rows) + 1}
                rows.append(row)
    categories = [category for category in document["categories"] if category["isthing"]]
    written = {"images": document["images"], "annotations": rows, "categories": categories}
    (annotations / "instances_train2017.json").write_text(json.dumps(written), encoding="utf-8")


def _numbered_jpeg(photo: np.ndarray, number: int) -> bytes:
    """The photo with its upper left corner showing the number in black and white blocks, which JPEG keeps apart."""
    bits = np.unpackbits(np.frombuffer(number.to_bytes(4, "big"), np.uint8)).reshape(4, 8)
    photo[:16, :16] = np.kron(bits, np.full((4, 2), 255, np.uint8))[..., None]
    return cv2.imencode(".jpg", photo)[1].tobytes()


def _draw(rng: np.random.Generator, path: Path) -> tuple[Path, list[dict]]:
    """A map of about SEGMENTS segments with COCO's large ids, at `path`, and its segments_info."""
    cells = rng.integers(0, 1 + SEGMENTS, (6, 6))
    ids = np.append(0, rng.choice(2**24 - 1, SEGMENTS, replace=False) + 1)
    segment_ids = ids[np.kron(cells, np.ones((SIDE_PX // 6, SIDE_PX // 6), int))]
    write_segment_ids_png(path, segment_ids)
    category_ids = rng.integers(1, 1 + len(coco_like_categories()), len(ids)).tolist()
    segments = measure_segments(segment_ids, category_ids=dict(zip(ids.tolist(), category_ids, strict=True)))
    return path, [
        {"id": s.segment_id, "category_id": s.category_id, "iscrowd": 0, "bbox": list(s.bbox_xywh), "area": s.area_px}
        for s in segments
    ]


def _image_row(image_id: int, file_name: str, split: str) -> dict:
    return {
        "license": 3,
        "file_name": file_name,
        "coco_url": f"http://images.cocodataset.org/{split}/{file_name}",
        "height": SIDE_PX,
        "width": SIDE_PX,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.staticflickr.com/8186/{image_id:010d}_07d7d9f5f1_z.jpg",
        "id": image_id,
    }


def copy_project(project: Path, root: Path, *, workers: int, with_instances: bool) -> None:
    """What the pipeline consists of, with profiles/coco_paper.yaml as its params.yaml, reading `root`."""
    project.mkdir()
    for name in ("antvisionps", "stages"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "dvc.yaml", project)
    yaml = YAML()
    params = yaml.load(compose(PROJECT / "profiles" / "coco_paper.yaml"))
    params["prepare"]["coco_panoptic"]["root"] = str(root)
    if not with_instances:
        params["prepare"]["instances"] = "panoptic"
    images = len(list((root / "train2017").iterdir()))
    for name in ("heldout_images", "monitor_images"):
        params["prepare"][name] = max(1, min(params["prepare"][name], images // 10))
    params["runtime"]["workers"] = workers
    yaml.dump(params, project / "params.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)


def run(project: Path, *command: str, ok: tuple[int, ...] = (0,)) -> str:
    """The seconds that the command took, by the clock and of all cores together."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": ".", "DVC_NO_ANALYTICS": "1"}
    started, cpu = time.perf_counter(), cpu_s()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    seconds, cpu = time.perf_counter() - started, cpu_s() - cpu
    if done.returncode not in ok:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}\n{done.stderr}")
    return f"{seconds:.1f} s, {cpu:.1f} s CPU"


if __name__ == "__main__":
    main()
