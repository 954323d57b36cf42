"""What the stages leave behind: a whole run, of three ends, on a handful of tiny pictures, for tests to look at.

Run as a script, in the folder to fill: one process runs all stage scripts, so that torch is imported once.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[1]
ENDS = ("e_ups", "lwl_htc", "hrnet_aspp")
SYSTEMS = ("e_ups", "lwl_htc", "fusion")
TINY_NETWORK = {"fpn_channels": 16, "train_proposals": 24, "rois_per_image": 16, "box_fc_channels": 16, "mask_convs": 1}


def write_tiny_params(path: Path) -> None:
    """The built-in run's parameters with everything small, in one process without workers."""
    yaml = YAML(typ="safe")
    params: dict[str, Any] = yaml.load(PROJECT / "params.yaml")
    shrink(params)
    params["runtime"]["workers"] = 1
    yaml.dump(params, path)


def shrink(params: dict[str, Any]) -> None:
    """Makes pictures, networks, trainings and thresholds of params.yaml small, without the report's components; few
    training steps give low scores, of which thresholds make better maps than probabilities."""
    params["train_e_ups"]["members"] = ["base"]
    params["fuse"]["method"] = "heuristic"
    params["prepare"]["scenes"] |= {"train_images": 9, "val_images": 4, "height_px": 64, "width_px": 80}
    params["prepare"] |= {"heldout_images": 3, "monitor_images": 2}
    networks = params["train_e_ups"]["networks"]["base"], params["train_lwl_htc"]["networks"]["base"]
    for network in networks:
        network |= TINY_NETWORK
        network["backbone"]["frozen_stages"] = 0  # eight steps have to teach something
    networks[1].update({"deformable_semantic_head": None, "uncertainty": None})
    networks[0]["semantic_channels"] = [8]
    params["train_hrnet_aspp"]["networks"]["base"] |= {"aspp_channels": 8, "stage1_channels": 8}
    for end in ("train_e_ups", "train_lwl_htc", "train_hrnet_aspp"):
        params[end]["schedule"] |= {"iterations": 8, "batch_size": 2, "warmup_iterations": 2}
        params[end]["augmentation"] |= {"short_sides_px": [64], "max_long_side_px": 96}
        params[end] |= {"curve_interval": 2, "evaluate_interval": 4}
    params["predict"] |= {
        "short_sides_px": [64],
        "max_long_side_px": 96,
        "max_proposals": 24,
        "min_score": 0.0,
        "flip": False,
    }
    params["evaluate_heldout"]["bootstrap_samples"] = 20
    params["calibrate"] |= {"min_score": 0.05, "min_stuff_area_px": 16}
    params["fuse"] |= {"min_score": 0.08, "min_stuff_area_px": 16}
    params["score"] |= {"bootstrap_samples": 20, "overlay_images": 1}
    params["runtime"] |= {"device": "cpu", "cpu_threads": 1}


def commands() -> list[str]:
    """The stages of dvc.yaml in an order in which each finds what it reads."""
    prepared = "--prepared data/prepared"
    cached = f"{prepared} --predictions data/predictions --routing data/routing"
    lines = [
        "prepare --out data/prepared",
        f"train_e_ups --member base {prepared} --work data/unfinished/e_ups/base --out data/models/e_ups/base",
        f"train_lwl_htc --member base {prepared} --work data/unfinished/lwl_htc/base --out data/models/lwl_htc/base",
        f"train_hrnet_aspp --member base {prepared} --work data/unfinished/hrnet --out data/models/hrnet_aspp/base",
    ]
    places = f"{prepared} --models data/models --work data/unfinished/predictions --predictions data/predictions"
    lines += [f"predict --ends {end} {places}" for end in ENDS]
    lines.append(f"evaluate_heldout {prepared} --predictions data/predictions --out data/routing")
    lines.append(f"calibrate {cached} --out data/calibration")
    lines.append(f"fuse {cached} --calibration data/calibration --out data/fused")
    fused = f"{cached} --calibration data/calibration --fused data/fused"
    lines.append(f"score {fused} --out metrics --scores data/scores")
    lines.append(f"report {fused} --models data/models --metrics metrics --scores data/scores --out report")
    return lines


def main() -> None:
    for command in commands():
        stage, *arguments = command.split()
        script = PROJECT / "stages" / f"{stage}.py"
        sys.argv = [str(script), *arguments]
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
