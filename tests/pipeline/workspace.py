"""A small data set with two ends that are noisy copies of the truth, and the stages after predict in this process."""

import csv
import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.interchange.import_end import export_end
from antvisionps.panoptic.segments import class_index_map, given_ids
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.predictions.instances import InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader, CacheIdentity
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter
from tests.drawing import found

PROJECT = Path(__file__).parents[2]
ENDS = {"e_ups": 4.0, "lwl_htc": 8.0}
"""End → stride of its semantic grid."""
SYSTEMS = (*ENDS, "fusion")

UNION = {"instance_ensemble": "union"}

STAGES = {
    "evaluate_heldout": ("routing", "prepared", "predictions"),
    "calibrate": ("calibration", "prepared", "predictions", "routing"),
    "fuse": ("fused", "prepared", "predictions", "routing", "calibration"),
    "score": ("metrics", "prepared", "predictions", "routing", "calibration", "fused", "scores"),
    "report": ("report", "prepared", "models", "predictions", "routing", "calibration", "fused", "metrics", "scores"),
}
"""Stage → what --out names, and its other options but for --params; --scores is one that score writes."""


def noisy_instances(dataset, image, rng):
    """Every true thing, shifted a little, some twice and some with holes, and random scores."""
    ids = dataset.load_segment_ids(image)
    rows = []
    for segment in image.segments:
        if dataset.categories.by_id(segment.category_id).is_thing and not segment.is_crowd:
            for _ in range(rng.integers(0, 3)):
                mask = np.roll(ids == segment.segment_id, rng.integers(-2, 3, 2), axis=(0, 1))
                rows.append((segment.category_id, rng.random(), mask))
    mask_probs = np.array([mask_probs_of(mask) for _, _, mask in rows], np.uint8).reshape(-1, 28, 28)
    return found(*rows, hw=(image.height, image.width), image_id=image.image_id, mask_probs=mask_probs)


def mask_probs_of(mask):
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return cv2.resize(255 * mask[y : y + height, x : x + width].astype(np.uint8), (28, 28))


def noisy_semantics(dataset, image, stride, rng):
    classes = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)
    step = int(stride)
    coarse = classes[step // 2 :: step, step // 2 :: step]
    probs = np.eye(256)[coarse][..., : len(dataset.categories)].transpose(2, 0, 1)
    probs = 0.6 * probs + 0.4 * rng.dirichlet(np.ones(len(probs)), coarse.shape).transpose(2, 0, 1)
    hw, category_ids = (image.height, image.width), dataset.categories.category_ids
    return ImageSemantics.from_probs(
        image.image_id, hw=hw, input_hw=hw, stride=stride, category_ids=category_ids, probs=probs
    )


def write_cache(folder, header, dataset, rng, stride, instances_of=noisy_instances):
    with (
        InstancesWriter(folder / INSTANCES_FILE, header) as instances,
        SemanticWriter(folder / SEMANTIC_FILE, header) as semantics,
    ):
        for image in dataset.images:
            instances.write(instances_of(dataset, image, rng))
            semantics.write(noisy_semantics(dataset, image, stride, rng))


def write_caches(prepared, predictions):
    rng = np.random.default_rng(5)
    for end, stride in ENDS.items():
        for split in ("heldout", "val"):
            dataset = open_split(prepared, split)
            fingerprint, own_ids = dataset_fingerprint(prepared), given_ids(dataset.images)
            header = CacheHeader(end, split, fingerprint, dataset.categories, "weights", own_ids)
            write_cache(predictions / end / split, header, dataset, rng, stride)


def change_params(source, path, **changes):
    """Writes params with other values, at any depth."""
    yaml = YAML(typ="safe")
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
    settings |= {"method": "heuristic", "semantic_weights": {"e_ups": 1.0, "lwl_htc": 0.5}}
    return change_params(
        PROJECT / "params.yaml",
        path,
        ends=list(ENDS),
        train_hrnet_aspp={"members": []},
        predict={"separate_ends": list(ENDS)},
        fuse=settings | fuse,
        evaluate_heldout={"min_heldout_instances": 2, "bootstrap_samples": 50},
        score={"overlay_images": 2, "bootstrap_samples": 200},
        runtime={"workers": workers},
    )


class Workspace:
    """A folder of what the stages read and write; `run` runs one as DVC does, but in this process."""

    def __init__(self, root):
        self.root = root
        for name in ("prepared", "predictions", "routing", "calibration", "fused", "metrics", "scores", "models"):
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
            (self.root / f"{stage}.txt").write_text(succeed(self.run(stage)).stdout)

    def run(self, stage, *flags, **places):
        command = self.command(stage, *flags, **places)
        printed, errors, status = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(errors):
            patch.setattr(sys, "argv", command[1:])
            try:
                runpy.run_path(command[1], run_name="__main__")
            except SystemExit as stopped:
                status = stopped.code
        return subprocess.CompletedProcess(command, status, printed.getvalue(), errors.getvalue())

    def command(self, stage, *flags, **places):
        """What runs `stages/<stage>.py`; `places` become path options in place of this workspace's own."""
        out, *own = STAGES[stage]
        options = {"params": self.params, "out": self.root / out} | {name: self.root / name for name in own} | places
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
        systems = [system for system in SYSTEMS if (fused / system).exists()]
        out.mkdir()
        params = write_params(out / "params.yaml", systems=systems, **choices)
        places = {"params": params, "fused": fused, "out": out / "metrics", "scores": out / "scores"}
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


def export_cache(root, end, split, to):
    """The folder TO, with what an end's cache below `root` holds as a tool's files."""
    dataset = open_split(root / "prepared", split)
    identity = CacheIdentity(end, split, dataset_fingerprint(root / "prepared"), dataset.categories)
    export_end(root / "predictions" / end / split, to, dataset=dataset, identity=identity)


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def rewrite_instances(path, change, **header):
    """Writes a cache again, of each image the rows and scores that `change` gives of it."""
    with InstancesReader(path) as reader:
        old, images = reader.header, list(reader)
    with InstancesWriter(path, replace(old, **header)) as writer:
        for image in images:
            kept, scores = change(image)
            writer.write(replace(image.take(kept), scores=scores))
