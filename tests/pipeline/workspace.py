"""A small data set with two ends that are noisy copies of the truth, and the stages after predict in this process."""

import contextlib
import csv
import io
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import class_index_map
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.predictions.instances import ImageInstances, InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader, cache_path
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter

PROJECT = Path(__file__).parents[2]
ENDS = {"e_ups": 4.0, "lwl_htc": 8.0}
"""End → stride of its semantic grid."""
SYSTEMS = (*ENDS, "fusion")

UNION, BEST_OVERALL = {"instance_ensemble": "union"}, {"instance_ensemble": "best_overall"}
"""Of section fuse: whose instances."""

READS = {
    "evaluate_heldout": ("prepared", "predictions"),
    "calibrate": ("prepared", "predictions", "routing"),
    "fuse": ("prepared", "predictions", "routing", "calibration"),
    "score": ("prepared", "predictions", "routing", "calibration", "fused", "overlays"),
    "report": ("prepared", "models", "predictions", "routing", "calibration", "fused", "metrics"),
}
"""Stage → its options, but for --params and --out; --overlays is one that it writes."""

OUT = {
    "evaluate_heldout": "routing",
    "calibrate": "calibration",
    "fuse": "fused",
    "score": "metrics",
    "report": "report",
}


def noisy_instances(dataset, image, rng):
    """Every true thing, shifted a little, some twice and some with holes, and random scores."""
    ids = dataset.load_segment_ids(image)
    rows = []
    for segment in image.segments:
        if not dataset.categories.by_id(segment.category_id).is_thing or segment.is_crowd:
            continue
        for _ in range(rng.integers(0, 3)):
            mask = np.roll(ids == segment.segment_id, rng.integers(-2, 3, 2), axis=(0, 1))
            rows.append((segment.category_id, rng.random(), mask))
    return ImageInstances(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        category_ids=np.array([category_id for category_id, _, _ in rows], np.int32),
        scores=np.array([score for _, score, _ in rows], np.float32),
        boxes_xywh=np.array([box_of(mask) for _, _, mask in rows], np.float32).reshape(-1, 4),
        rles=encode_masks(np.array([mask for _, _, mask in rows])) if rows else [],
        mask_probs=np.array([mask_probs_of(mask) for _, _, mask in rows], np.uint8).reshape(-1, 28, 28),
    )


def box_of(mask):
    return cv2.boundingRect(mask.astype(np.uint8))


def mask_probs_of(mask):
    x, y, width, height = box_of(mask)
    return cv2.resize(255 * mask[y : y + height, x : x + width].astype(np.uint8), (28, 28))


def noisy_semantics(dataset, image, stride, rng):
    classes = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)
    step = int(stride)
    coarse = classes[step // 2 :: step, step // 2 :: step]
    probs = np.eye(256)[coarse][..., : len(dataset.categories)].transpose(2, 0, 1)
    probs = 0.6 * probs + 0.4 * rng.dirichlet(np.ones(len(probs)), coarse.shape).transpose(2, 0, 1)
    return ImageSemantics.from_probs(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        input_height=image.height,
        input_width=image.width,
        stride=stride,
        category_ids=dataset.categories.category_ids,
        probs=probs,
    )


def write_caches(prepared, predictions):
    rng = np.random.default_rng(5)
    for end, stride in ENDS.items():
        for split in ("heldout", "val"):
            dataset = open_split(prepared, split)
            header = CacheHeader(end, split, dataset_fingerprint(prepared), dataset.categories, "weights")
            place = {"end": end, "split": split}
            with (
                InstancesWriter(cache_path(predictions, file_name=INSTANCES_FILE, **place), header) as instances,
                SemanticWriter(cache_path(predictions, file_name=SEMANTIC_FILE, **place), header) as semantics,
            ):
                for image in dataset.images:
                    instances.write(noisy_instances(dataset, image, rng))
                    semantics.write(noisy_semantics(dataset, image, stride, rng))


def change_params(source, path, **changes):
    """Writes params with other values, at any depth."""
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load(source)
    update(document, changes)
    yaml.dump(document, path)
    return path


def update(settings, changes):
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(settings[name], dict):
            update(settings[name], value)
        else:
            settings[name] = value


def write_params(path, *, workers=1, **fuse):
    settings = {"systems": list(SYSTEMS), "min_score": 0.3, "max_overlap_frac": 0.5, "min_stuff_area_px": 32}
    settings["semantic_weights"] = {"e_ups": 1.0, "lwl_htc": 0.5}
    return change_params(
        PROJECT / "params.yaml",
        path,
        ends=list(ENDS),
        fuse=settings | fuse,
        evaluate_heldout={"min_heldout_instances": 2, "bootstrap_samples": 50},
        score={"overlay_images": 2, "bootstrap_samples": 200},
        runtime={"workers": workers},
    )


def methods(**of_system):
    """Of section fuse: the methods of systems that do not take the heuristic."""
    return {"methods": of_system}


class Workspace:
    """A folder of what the stages read and write; `run` runs one as DVC does, but in this process."""

    def __init__(self, root):
        self.root = root
        for name in ("prepared", "predictions", "routing", "calibration", "fused", "metrics", "overlays", "models"):
            setattr(self, name, root / name)
        self.params = root / "params.yaml"

    def fill(self):
        """The data set, the caches and what all stages make of them."""
        prepare_scenes(
            self.prepared, train_images=12, val_images=5, height=96, width=128, heldout_images=8, seed=3, workers=1
        )
        write_caches(self.prepared, self.predictions)
        write_params(self.params)
        for stage in ("evaluate_heldout", "calibrate", "fuse", "score"):
            printed = succeed(self.run(stage)).stdout
            (self.root / f"{stage}.txt").write_text(printed)

    def run(self, stage, *flags, **places):
        command = self.command(stage, *flags, **places)
        printed, errors = io.StringIO(), io.StringIO()
        status = 0
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(errors),
        ):
            patch.setattr(sys, "argv", command[1:])
            try:
                runpy.run_path(command[1], run_name="__main__")
            except SystemExit as stopped:
                status = stopped.code
        return subprocess.CompletedProcess(command, status, printed.getvalue(), errors.getvalue())

    def command(self, stage, *flags, **places):
        """What runs `stages/<stage>.py`; `places` become path options in place of this workspace's own."""
        own = {name: self.root / name for name in READS[stage]}
        options = {"params": self.params, **own, "out": self.root / OUT[stage], **places}
        command = [sys.executable, str(PROJECT / "stages" / f"{stage}.py"), *flags]
        for name, path in options.items():
            command += [f"--{name}", str(path)]
        return command

    def fuse(self, out, *systems, places=(), **choices):
        """The folder OUT, with the maps of the systems by these choices of section fuse."""
        params = write_params(out.with_suffix(".yaml"), systems=list(systems), **choices)
        succeed(self.run("fuse", **{"params": params, "out": out, **dict(places)}))
        return out

    def score(self, out, fused, **choices):
        """System → group → PQ, SQ, RQ of the maps in a folder; all that the stage writes is below OUT."""
        systems = sorted(path.name for path in fused.iterdir())
        out.mkdir()
        params = write_params(out / "params.yaml", systems=systems, **choices)
        places = {"params": params, "fused": fused, "out": out / "metrics", "overlays": out / "overlays"}
        succeed(self.run("score", "--no-error-budget", **places))
        return json.loads((out / "metrics" / "panoptic.json").read_text())


def succeed(ran):
    assert ran.returncode == 0, ran.stderr
    return ran


def fail(ran):
    """The one line on stderr of a stage that refused."""
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    return line


def bytes_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def cached_instances(space, end):
    """Image → rows of the end's instances of val."""
    rows_of = {}
    for row in pq.read_table(space.predictions / end / "val" / INSTANCES_FILE).to_pylist():
        rows_of.setdefault(row["image_id"], []).append(row)
    return rows_of


def rewrite_instances(path, change, **header):
    """Writes a cache again, of each image the rows and scores that `change` gives of it."""
    with InstancesReader(path) as reader:
        old, images = reader.header, list(reader)
    with InstancesWriter(path, replace(old, **header)) as writer:
        for image in images:
            kept, scores = change(image)
            writer.write(
                replace(
                    image,
                    category_ids=image.category_ids[kept],
                    scores=scores,
                    boxes_xywh=image.boxes_xywh[kept],
                    rles=[image.rles[index] for index in kept],
                    mask_probs=None if image.mask_probs is None else image.mask_probs[kept],
                    stored_areas_px=None,
                )
            )
