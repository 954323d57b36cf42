"""The built-in scenes: the same everywhere, valid, and with everything that they promise to hold."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from antvisionps.datasets.scenes import CATEGORIES, render_scene, write_scenes
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.segments import measure_segments

SIZE = {"height": 96, "width": 128}


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed=7, image_id=image_id, **SIZE) for image_id in range(1, 61)]


def test_a_scene_is_a_function_of_seed_and_image_id_in_any_process(scenes):
    scene = scenes[4]
    digest = hashlib.sha256(scene.photo.tobytes() + scene.segment_ids.tobytes()).hexdigest()
    program = (
        "import hashlib; from antvisionps.datasets.scenes import render_scene;"
        "scene = render_scene(seed=7, image_id=5, height=96, width=128);"
        "print(hashlib.sha256(scene.photo.tobytes() + scene.segment_ids.tobytes()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout == f"{digest}\n"
    assert (render_scene(seed=8, image_id=5, **SIZE).photo != scene.photo).any()


def test_category_ids_have_gaps_and_mix_things_with_stuff():
    ids = CATEGORIES.category_ids
    assert set(ids.tolist()) != set(range(1, len(ids) + 1))
    assert ids.tolist() != sorted(ids.tolist())


@pytest.mark.parametrize("hw", [(64, 64), (200, 90)])
def test_photo_and_map_have_the_size_asked_for(hw):
    scene = render_scene(seed=0, image_id=1, height=hw[0], width=hw[1])
    assert (scene.photo.shape, scene.photo.dtype, scene.segment_ids.shape) == ((*hw, 3), np.uint8, hw)


def test_larger_scenes_show_the_same_things_in_more_pixels():
    small, large = (render_scene(seed=7, image_id=3, height=96 * k, width=128 * k) for k in (1, 2))
    growth = [
        sum(segment.area_px for segment in scene.segments if CATEGORIES.by_id(segment.category_id).is_thing)
        for scene in (small, large)
    ]
    assert growth[1] == pytest.approx(4 * growth[0], rel=0.25)


def test_segments_describe_the_map_and_stuff_is_one_a_category_and_never_a_crowd(scenes):
    for scene in scenes:
        category_ids = {segment.segment_id: segment.category_id for segment in scene.segments}
        crowd_ids = {segment.segment_id for segment in scene.segments if segment.is_crowd}
        assert measure_segments(scene.segment_ids, category_ids=category_ids, crowd_ids=crowd_ids) == scene.segments
        stuff = [s for s in scene.segments if not CATEGORIES.by_id(s.category_id).is_thing]
        assert len({segment.category_id for segment in stuff}) == len(stuff)
        assert not any(segment.is_crowd for segment in stuff)


def test_the_world_is_as_varied_as_promised(scenes):
    segments = [segment for scene in scenes for segment in scene.segments]
    counts = {c.name: sum(s.category_id == c.category_id for s in segments) for c in CATEGORIES.categories}
    assert min(counts.values()) >= 20
    assert sum(segment.is_crowd for segment in segments) >= 3
    void_frac = np.mean([(scene.segment_ids == 0).mean() for scene in scenes])
    assert 0.005 < void_frac < 0.1
    things = [s for s in segments if CATEGORIES.by_id(s.category_id).is_thing and not s.is_crowd]
    assert 3 <= len(things) / len(scenes) <= 9
    assert min(segment.area_px for segment in things) < 60
    assert max(segment.area_px for segment in things) > 600


def test_instances_of_one_class_touch_and_things_hide_one_another(scenes):
    pairs = {frozenset(pair) for scene in scenes for pair in neighbours(scene)}
    assert sum(len(pair) == 1 for pair in pairs) >= 4
    assert sum(len(pair) == 2 for pair in pairs) >= 4


def neighbours(scene):
    """Thing categories of segments that share a border."""
    category_of = {s.segment_id: s.category_id for s in scene.segments if CATEGORIES.by_id(s.category_id).is_thing}
    left, right = scene.segment_ids[:, :-1].ravel(), scene.segment_ids[:, 1:].ravel()
    borders = np.unique(np.stack([left, right], axis=1)[left != right], axis=0).tolist()
    return [(category_of[a], category_of[b]) for a, b in borders if a in category_of and b in category_of]


def test_written_scenes_are_a_perfect_panoptic_data_set_to_panopticapi(tmp_path, panopticapi_pq):
    images = write_scenes(tmp_path, seed=7, image_ids=[4, 9], **SIZE)
    annotations, folder = tmp_path / "panoptic.json", tmp_path / "panoptic"
    write_panoptic_json(annotations, categories=CATEGORIES, images=images)
    assert panopticapi_pq(*map(str, (annotations, annotations, folder, folder)))["All"]["pq"] == 1.0
    dataset = read_panoptic(annotations, images_dir=tmp_path / "images", panoptic_dir=folder)
    assert dataset.images == images
    for image in images:
        rendered = render_scene(seed=7, image_id=image.image_id, **SIZE)
        np.testing.assert_array_equal(dataset.load_photo(image), rendered.photo)
        np.testing.assert_array_equal(dataset.load_segment_ids(image), rendered.segment_ids)
