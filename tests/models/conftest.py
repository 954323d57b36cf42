"""A data set of three small pictures and networks small enough to train in a second."""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import antvisionps.models  # noqa: F401  its operators have to be in place before a test imports mmdet
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments

CATEGORIES = [
    {"id": 2, "name": "ground", "isthing": 0},
    {"id": 5, "name": "box", "isthing": 1},
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 9, "name": "crowd of boxes", "isthing": 1},
]
HEIGHT, WIDTH = 64, 80


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="package")
def _curves_without_a_repository():
    """DVCLive opens the git repository of the working folder and never closes its packs: a ResourceWarning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvclive.live.get_dvc_repo", lambda: None)
        yield


@pytest.fixture
def categories() -> CategorySet:
    return CategorySet.from_json(CATEGORIES, where="test")


@pytest.fixture
def dataset(tmp_path: Path, categories: CategorySet) -> PanopticDataset:
    """Image 1: two boxes, a crowd and a void strip; image 2: no thing at all; image 3: nothing but void."""
    return write_dataset(tmp_path / "data", categories)


def write_dataset(folder: Path, categories: CategorySet) -> PanopticDataset:
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = []
    for image_id in (1, 2, 3):
        segment_ids = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
        category_ids, crowd_ids = {}, set()
        if image_id < 3:
            segment_ids[:32], segment_ids[32:] = 10, 20
            category_ids = {10: 7, 20: 2}
        if image_id == 1:
            segment_ids[8:28, 6:30], segment_ids[40:60, 40:64], segment_ids[2:12, 50:76] = 30, 31, 32
            segment_ids[30:34] = 0
            category_ids |= {30: 5, 31: 9, 32: 9}
            crowd_ids = {32}
        photo = rng.integers(0, 40, (HEIGHT, WIDTH, 3)) + 5 * (segment_ids[..., None] % 37)
        cv2.imwrite(str(folder / "images" / f"{image_id}.png"), photo.astype(np.uint8))
        write_segment_ids_png(folder / "panoptic" / f"{image_id}.png", segment_ids)
        segments = measure_segments(segment_ids, category_ids=category_ids, crowd_ids=crowd_ids)
        images.append(PanopticImage(image_id, f"{image_id}.png", f"{image_id}.png", HEIGHT, WIDTH, segments))
    write_panoptic_json(folder / "truth.json", categories=categories, images=images)
    return read_panoptic(folder / "truth.json", images_dir=folder / "images", panoptic_dir=folder / "panoptic")


@pytest.fixture
def network_settings() -> dict[str, dict]:
    """What the smallest network of each end is built with."""
    return copy.deepcopy(NETWORKS)


NETWORK = {
    "backbone": {
        "name": "efficientnet_lite0",
        "weights": None,
        "frozen_stages": 0,
        "frozen_norm": True,
        "deformable": False,
    },
    "fpn_channels": 16,
    "anchor_scale": 4.0,
    "train_proposals": 24,
    "rois_per_image": 16,
    "box_fc_channels": 16,
    "mask_convs": 1,
    "semantic_loss_weight": 1.0,
}

PLAIN_E_UPS = {
    "image_context": False,
    "balanced_pyramid_level": None,
    "location_sensitive_header": False,
    "roi_semantic_loss_weight": 0.0,
    "panoptic_loss_weight": 0.0,
    "unknown_frac": 0.3,
}

NETWORKS = {
    "e_ups": NETWORK | PLAIN_E_UPS | {"semantic_channels": [16, 8]},
    "lwl_htc": NETWORK
    | {
        "location_sensitive_header": False,
        "average_mask_stages": True,
        "semantic_level": 1,
        "semantic_convs": 1,
        "semantic_loss_on": "photo",
        "deformable_semantic_head": None,
        "uncertainty": None,
    },
    "hrnet_aspp": {
        "backbone": {"width": 18, "modules": (1, 1, 1), "blocks": 1, "weights": None, "frozen_norm": False},
        "aspp_rates": (1, 2),
        "aspp_channels": 16,
        "stage1_channels": 8,
        "hard_pixel_frac": 0.5,
    },
}
