"""Damaged files of every kind that a stage reads: one error line and nothing left, or the result of the sound file.

ACCEPTED lists what may change a result: another value that is as valid as the one that stood there.
"""

import io
import json
import os
import re
import runpy
import shutil
import signal
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import pytest

from tests.mutations.mutators import BYTES, CSV, JSON, PARQUET, Mutation
from tests.pipeline.workspace import bytes_below, change_params, export_cache

STAGES = Path(__file__).parents[2] / "stages"
ANOTHER_RESULT = "another result"

LONGEST_S = 20
"""A stage takes well under a second here; one that takes so long hangs."""


@dataclass(frozen=True)
class Target:
    """A file that a stage reads, how it is damaged and how often."""

    stage: str
    file: str
    mutations: tuple[Mutation, ...]
    count: int = 16


TARGETS = (
    Target("prepare", "coco/train.json", (*BYTES, *JSON * 3), 30),
    Target("prepare", "coco/val.json", (*BYTES, *JSON * 3), 18),
    Target("prepare", "coco/instances.json", (*BYTES, *JSON * 3), 24),
    Target("prepare", "coco/images/000000000001.png", BYTES),
    Target("prepare", "coco/panoptic/000000000001.png", BYTES),
    Target("evaluate_heldout", "data/prepared/dataset.json", (*BYTES, *JSON * 3), 30),
    Target("evaluate_heldout", "data/prepared/heldout.json", (*BYTES, *JSON * 3), 18),
    Target("evaluate_heldout", "data/predictions/e_ups/heldout/instances.parquet", (*BYTES, *PARQUET * 2), 30),
    Target("calibrate", "data/routing/routing.json", JSON, 8),
    Target("calibrate", "data/predictions/lwl_htc/heldout/semantic.parquet", PARQUET, 9),
    Target("fuse", "data/predictions/e_ups/val/instances.parquet", (*BYTES, *PARQUET * 2), 30),
    Target("fuse", "data/predictions/hrnet_aspp/val/semantic.parquet", (*BYTES, *PARQUET * 2), 30),
    Target("fuse", "data/routing/routing.json", (*BYTES, *JSON * 3), 30),
    Target("fuse", "data/calibration/fusion.json", (*BYTES, *JSON * 3), 30),
    Target("score", "data/fused/fusion/panoptic.json", (*BYTES, *JSON * 3), 18),
    Target("score", "data/fused/fusion/runs.parquet", (*BYTES, *PARQUET * 2), 18),
    Target("score", "data/prepared/val_runs.parquet", (*BYTES, *PARQUET * 2), 18),
    Target("report", "metrics/panoptic.json", (*BYTES, *JSON * 3), 18),
    Target("report", "metrics/per_class.csv", (*BYTES, *CSV)),
    Target("report", "metrics/intervals.csv", (*BYTES, *CSV)),
    Target("report", "metrics/error_budget.csv", (*BYTES, *CSV)),
    Target("report", "metrics/error_kinds.csv", (*BYTES, *CSV)),
    Target("report", "data/fused/fusion/candidates.parquet", (*BYTES, *PARQUET * 2), 18),
    Target("report", "data/fused/fusion/segments.parquet", (*BYTES, *PARQUET * 2), 18),
    Target("report", "data/routing/class_ap.parquet", (*BYTES, *PARQUET * 2)),
    Target("report", "data/models/e_ups/base/network.json", (*BYTES, *JSON)),
    Target("report", "data/models/e_ups/base/curves/plots/metrics/loss.tsv", (*BYTES, *CSV)),
    Target("predict", "data/models/hrnet_aspp/base/network.json", (*BYTES, *JSON)),
    Target("predict", "data/models/hrnet_aspp/base/weights.pth", BYTES),
    Target("import_end", "import/instances.json", (*BYTES, *JSON * 3), 18),
    Target("import_end", "import/semantic/000001000001.npz", BYTES),
)

ACCEPTED: tuple[tuple[str, str], ...] = (
    ("prepare-coco/.*json", "left_out|twice"),  # an image, an annotation or an instance less, as a warning says
    (".*png|.*npz|.*pth|import_end.*", "append_bytes"),  # after the end; only the checksum of the file tells
    ("import_end-.*", "left_out|twice"),  # an instance less
    ("report-.*loss.tsv", "flip_bits"),  # another digit
    ("report-metrics/.*", "flip_bits|csv_cell|cut_out|left_out|wrong_value"),  # another number in range
    ("report-.*parquet", "parquet_rows|parquet_cell"),  # a row less, another number in range
)
"""Target and mutation (regular expressions) that may leave a valid file, so that the result may change."""


@pytest.fixture(scope="module")
def run_folder(made_once, tiny_run) -> Path:
    """The tiny run, its data set as a COCO folder with instances, and an end's export to import."""

    def fill(folder: Path) -> None:
        for name in ("data", "metrics"):
            shutil.copytree(tiny_run / name, folder / name)
        prepared = folder / "data" / "prepared"
        shutil.copytree(prepared, folder / "coco", ignore=shutil.ignore_patterns("dataset.json", "*.parquet"))
        write_instances(folder / "coco")
        export_cache(folder / "data", "lwl_htc", "val", folder / "import")
        split = {"panoptic_dir": "panoptic", "images_dir": "images"}
        coco = {"root": str(folder / "coco")}
        coco |= {name: {"annotations": f"{name}.json"} | split for name in ("train", "val")}
        prepare = {"source": "coco_panoptic", "heldout_images": 2, "coco_panoptic": coco, "instances": "instances.json"}
        change_params(tiny_run / "params.yaml", folder / "params.yaml", fuse={"calibrated": True})
        change_params(tiny_run / "params.yaml", folder / "prepare.yaml", prepare=prepare)

    return made_once("mutations", fill)


@pytest.fixture(scope="module")
def root(run_folder, tmp_path_factory) -> Path:
    """The run, one file of which a test damages and mends."""
    return linked(run_folder, tmp_path_factory.mktemp("mutations") / "run")


@pytest.fixture(scope="module")
def sound_result(root) -> Callable[[str], dict[Path, bytes]]:
    """Stage → what it makes of the sound files, as long as they all are."""

    @cache
    def make(stage: str) -> dict[Path, bytes]:
        with empty_out(root) as out:
            assert (found := run(stage, root))[0] == 0, found
            return bytes_below(out)

    return make


def name_of(target: Target) -> str:
    return f"{target.stage}-{target.file}"


def may_be_valid(target: Target, mutation: Mutation) -> bool:
    return any(
        re.fullmatch(targets, name_of(target)) and re.fullmatch(mutations, mutation.__name__)
        for targets, mutations in ACCEPTED
    )


def write_instances(coco: Path) -> None:
    document = json.loads((coco / "train.json").read_text())
    things = {c["id"] for c in document["categories"] if c["isthing"]}
    rows = []
    for annotation in document["annotations"]:
        for segment in annotation["segments_info"]:
            if segment["category_id"] in things:
                x, y, width, height = segment["bbox"]
                corners = [x, y, x + width, y, x + width, y + height, x, y + height]
                row = {"id": len(rows) + 1, "image_id": annotation["image_id"], "segmentation": [corners]}
                rows.append(segment | row | {"area": width * height})
    categories = [c for c in document["categories"] if c["isthing"]]
    instances = {"images": document["images"], "annotations": rows, "categories": categories}
    (coco / "instances.json").write_text(json.dumps(instances))


def command_of(stage: str, root: Path) -> list[str]:
    data = root / "data"
    if stage == "prepare":
        return ["--params", str(root / "prepare.yaml"), "--out", str(root / "out" / "x")]
    reads = ["--prepared", str(data / "prepared")]
    if stage == "import_end":
        return [
            *reads,
            "--end",
            "mine",
            "--split",
            "val",
            "--files",
            str(root / "import"),
            "--out",
            str(root / "out/x"),
        ]
    if stage == "predict":
        reads += ["--ends", "hrnet_aspp", "--models", str(data / "models")]
        places = ["--work", str(root / "unfinished"), "--predictions", str(root / "out")]
        return [*reads, "--params", str(root / "params.yaml"), *places]
    folders = {
        "evaluate_heldout": ("predictions",),
        "calibrate": ("predictions", "routing"),
        "fuse": ("predictions", "routing", "calibration"),
        "score": ("predictions", "routing", "calibration", "fused"),
        "report": ("models", "predictions", "routing", "calibration", "fused", "scores"),
    }[stage]
    for name in folders:
        reads += [f"--{name}", str(data / name)]
    if stage == "score":
        reads += ["--scores", str(root / "out" / "scores"), "--no-error-budget"]
    if stage == "report":
        reads += ["--metrics", str(root / "metrics")]
    return [*reads, "--params", str(root / "params.yaml"), "--out", str(root / "out" / "x")]


def linked(source: Path, to: Path) -> Path:
    """A copy of the run whose files are links, but for the params, which name the folder."""
    shutil.copytree(source, to, copy_function=os.link)
    path = to / "prepare.yaml"
    text = path.read_text().replace(str(source), str(to))
    path.unlink()
    path.write_text(text)
    return to


def replace(path: Path, content: bytes) -> None:
    """By another file: the old one may be linked, or mapped into memory."""
    path.unlink()
    path.write_bytes(content)


@contextmanager
def empty_out(root: Path) -> Iterator[Path]:
    """The folder that stages write to; its content is removed at the end."""
    out = root / "out"
    out.mkdir()
    try:
        yield out
    finally:
        shutil.rmtree(out)


def run(stage: str, root: Path) -> tuple[int, str]:
    """Exit status and stderr of a stage in this process; a traceback and a hang are statuses of their own."""
    errors = io.StringIO()

    def stop(*_: object) -> None:
        raise TimeoutError(f"still running after {LONGEST_S} s")

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()), redirect_stderr(errors):
        patch.setattr(sys, "argv", [stage, *command_of(stage, root)])
        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(LONGEST_S)
        try:
            runpy.run_path(str(STAGES / f"{stage}.py"), run_name="__main__")
            return 0, errors.getvalue()
        except SystemExit as stopped:
            return int(stopped.code or 0), errors.getvalue()
        except BaseException:  # noqa: BLE001  whatever a stage lets through is what is looked for
            return -1, traceback.format_exc()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def fault_of(status: int, printed: str, out: Path, sound: dict[Path, bytes]) -> str | None:
    """What a stage did wrong with a damaged file; None where it did right."""
    written = bytes_below(out)
    if status == 0:
        return None if written == sound else ANOTHER_RESULT
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    if status != 1 or "Traceback" in printed:
        return "traceback: " + " | ".join(printed.splitlines()[-3:])
    if len(lines) != 1:
        return f"{len(lines)} error lines"
    if written or list(out.iterdir()):
        return f"left {sorted(map(str, written))}"
    return None if len(lines[0]) < 2_000 else f"an error line of {len(lines[0])} characters"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("target", TARGETS, ids=name_of)
def test_damage_is_one_line_or_changes_nothing(root, sound_result, tmp_path, target):
    sound_file, sound, faults = (root / target.file).read_bytes(), sound_result(target.stage), []
    for number in range(target.count):
        rng = Random(zlib.crc32(f"{target.stage} {target.file} {number}".encode()))
        mutation = target.mutations[number % len(target.mutations)]
        damaged = mutation(sound_file, rng)
        replace(root / target.file, damaged)
        with empty_out(root) as out:
            fault = fault_of(*run(target.stage, root), out, sound)
        if fault and not (fault == ANOTHER_RESULT and may_be_valid(target, mutation)):
            (tmp_path / f"fault{number}").write_bytes(damaged)
            faults.append(f"{mutation.__name__} {number}: {fault}")
    replace(root / target.file, sound_file)
    assert not faults, "\n".join(faults)


def test_there_are_enough():
    assert sum(target.count for target in TARGETS) >= 500
