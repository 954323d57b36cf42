"""`antvisionps new-profile`, and the way of a first-time user from a folder of Labelme's to a pipeline that can run."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

from antvisionps.cli import main as cli
from antvisionps.datasets.scenes import CATEGORIES, write_scenes
from antvisionps.panoptic.coco_json import write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.splits import open_split
from antvisionps.params.profiles import read_params
from antvisionps.params.whole import load_params
from antvisionps.pipeline.prepare import prepare
from antvisionps.preflight.images import look_at_data
from antvisionps.preflight.new_profile import describe, read_profile
from antvisionps.preflight.survey import Survey, find_splits
from tests.tiny_run import PROJECT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with our profiles and nothing else."""
    shutil.copytree(PROJECT / "profiles", tmp_path / "profiles")
    shutil.copy(PROJECT / "profiles/built_in.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_scenes_like(folder, *, train=12, val=4, hw=(64, 96)):
    """A data set as `prepare` reads it, with photos and maps of the same names."""
    for name, first, count in (("train", 1, train), ("val", 101, val)):
        images = write_scenes(folder, seed=0, image_ids=range(first, first + count), height=hw[0], width=hw[1])
        write_panoptic_json(folder / f"{name}.json", categories=CATEGORIES, images=images)
    return folder


def outlines(mask):
    return [part[:, 0].tolist() for part in cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]]


def write_labelme(folder, *, images, hw=(64, 64)):
    """Photos with what an annotator would draw: an outline for each part of each segment, in Labelme's JSON."""
    drawn = folder.parent / "drawn"
    for image in write_scenes(drawn, seed=1, image_ids=range(1, 1 + images), height=hw[0], width=hw[1]):
        dataset = PanopticDataset(drawn, drawn / "images", drawn / "panoptic", CATEGORIES, (image,))
        ids = dataset.load_segment_ids(image)
        shapes = [
            {"label": CATEGORIES.by_id(one.category_id).name, "points": points, "group_id": one.segment_id}
            for one in image.segments
            for points in outlines((ids == one.segment_id).astype(np.uint8))
            if len(points) > 2
        ]
        photo = shutil.copy(dataset.photo_path(image), folder)
        document = {"version": "6.3.1", "shapes": shapes, "imagePath": Path(photo).name, "imageData": None}
        Path(photo).with_suffix(".json").write_text(json.dumps(document))


def three_commands():
    """The first block of the section on a user's photos."""
    section = (PROJECT / "docs/your_own_data.md").read_text().partition("## Your own photos")[2].partition("##")[0]
    return [line.strip().removeprefix("antvisionps ") for line in section.splitlines() if line.startswith("    ")]


def test_three_commands_lead_from_40_photos_of_labelmes_to_a_run_that_can_begin(project, capsys):
    (project / "photos").mkdir()
    write_labelme(project / "photos", images=40)
    convert, new_profile, make = three_commands()
    cli.main([*convert.split(), "--workers", "1"])
    assert f"next: antvisionps {new_profile}" in capsys.readouterr().out
    cli.main(new_profile.split())
    assert "next: antvisionps use profiles/mine.yaml, then dvc repro" in capsys.readouterr().out
    assert make == "make repro PROFILE=mine"
    cli.main(["use", "profiles/mine.yaml"])
    assert "params.yaml is now profiles/mine.yaml; `dvc repro` runs it" in capsys.readouterr().out

    params = load_params(project / "params.yaml")
    (finding,) = look_at_data(params.prepare)[1]
    assert (finding.severity, finding.message.endswith("all 40 photos and maps")) == ("ok", True)
    prepare(params.prepare, out=project / "data/prepared", workers=1)
    splits = {name: open_split(project / "data/prepared", name) for name in ("train", "heldout", "val")}
    assert {name: len(split.images) for name, split in splits.items()} == {"train": 26, "heldout": 6, "val": 8}
    assert {one.name for one in splits["val"].categories.stuff} == {"sky", "grass", "water"}


STREET = Survey(
    train=425,
    val=87,
    categories=CATEGORIES,
    short_px=512,
    long_px=512,
    long_per_short=1.0,
    box_side_frac=0.066,
    things_per_image=np.array([23] * 90 + [49] * 8 + [80, 80]),
    stuff_areas_px=np.array([764, 1557, 4142, 4200] + [32355] * 10),
)
"""What the data set of profiles/street.yaml is like."""


@pytest.fixture(scope="module")
def values_of():
    street = read_profile(PROJECT / "profiles/street.yaml")
    return lambda survey: {
        key: one.value for key, one in describe(survey, {}, Path("data/street"), street=street).items()
    }


def test_what_a_data_set_is_like_gives_what_was_chosen_by_hand_for_it(values_of):
    values = values_of(STREET)
    for end in ("train_e_ups", "train_lwl_htc"):
        assert values[f"{end}.augmentation.short_sides_px"] == [192, 224, 256]
        assert values[f"{end}.augmentation.max_long_side_px"] == 384
        assert values[f"{end}.networks.base.train_proposals"] == 200
        assert values[f"{end}.networks.base.rois_per_image"] == 128
        assert values[f"{end}.networks.base.anchor_scale"] == 4.0
    assert (values["predict.short_sides_px"], values["predict.max_long_side_px"]) == ([224], 384)
    assert (values["predict.max_instances"], values["predict.max_proposals"]) == (150, 300)
    assert values["fuse.min_stuff_area_px"] == values["calibrate.min_stuff_area_px"] == 2048
    assert (values["prepare.heldout_images"], values["prepare.monitor_images"]) == (42, 17)


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ({"train": 118_287}, "prepare.heldout_images", 5000),
        ({"train": 118_287}, "prepare.monitor_images", 500),
        ({"train": 3}, "prepare.heldout_images", 1),
        ({"train": 60}, "prepare.heldout_images", 12),
        ({"train": 60}, "prepare.monitor_images", 0),
        ({"train": 60}, "train_lwl_htc.evaluate_interval", None),
        ({"short_px": 64, "long_px": 96, "long_per_short": 1.5}, "predict.short_sides_px", [64]),
        ({"short_px": 1024, "long_px": 2048, "long_per_short": 2.0}, "predict.max_long_side_px", 512),
        ({"short_px": 1024, "long_px": 2048, "long_per_short": 2.0}, "fuse.min_stuff_area_px", 4096),
        ({"stuff_areas_px": np.array([])}, "fuse.min_stuff_area_px", 2048),
        ({"box_side_frac": 0.4}, "train_e_ups.networks.base.anchor_scale", 8.0),
        ({"box_side_frac": 0.01}, "train_e_ups.networks.base.anchor_scale", 2.0),
        ({"things_per_image": np.array([2, 3])}, "predict.max_instances", 100),
        ({"things_per_image": np.array([2, 3])}, "train_lwl_htc.networks.base.rois_per_image", 32),
    ],
)
def test_other_data_give_other_values(values_of, change, key, value):
    assert values_of(replace(STREET, **change))[key] == value


def test_what_photos_want_of_training_and_fusion_is_street_yamls(values_of):
    """But for fewer iterations where there are fewer photos, and the heuristic where few are held out."""
    street, values = read_profile(PROJECT / "profiles/street.yaml"), values_of(STREET)
    small, built_in_sized = values_of(replace(STREET, train=60)), replace(STREET, short_px=128, long_px=160)
    for key, value in street.items():
        if key.endswith(("pyramid_norm", "batch_size", "warmup_iterations", "learning_rate", "aspp_rates")):
            assert values[key] == small[key] == value
    key = "train_e_ups.schedule.iterations"
    assert 0.95 * street[key] < values[key] <= street[key]
    assert small[key] == pytest.approx(0.3 * street[key], abs=5)
    assert values["train_e_ups.evaluate_interval"] == values[key] // 4
    assert [values[one] for one in ("ends", "predict.separate_ends")] == [["e_ups", "lwl_htc"]] * 2
    assert "fuse.method" not in values
    assert small["fuse.method"] == "heuristic"
    assert "fuse.method" not in values_of(built_in_sized)
    assert values_of(built_in_sized)[key] > load_params(PROJECT / "params.yaml").train_e_ups.schedule.iterations


def test_only_what_differs_is_written_each_with_its_reason(project):
    write_scenes_like(project / "data/My Set!", hw=(128, 160))
    cli.main(["new-profile", "--root", "data/My Set!"])
    text = (project / "profiles/my_set.yaml").read_text()
    written, built_in = (read_params(project / "profiles" / name) for name in ("my_set.yaml", "built_in.yaml"))
    assert "heldout_images: 2 # of the 12 of train" in text
    for place, value in leaves(YAML(typ="safe").load(text)):
        if place != ("extends",) and place[:2] != ("prepare", "coco_panoptic"):
            assert value_at(built_in, place) != value, place
            assert value_at(written, place) == value
    folder = load_params(project / "profiles/my_set.yaml").prepare.coco_panoptic
    assert (folder.root, folder.val.annotations, folder.val.images_dir) == ("data/My Set!", "val.json", "images")


def test_other_yaml_is_written_as_before(project):
    write_scenes_like(project / "data/mine")
    cli.main(["new-profile", "--root", "data/mine"])
    assert ": null\n" in (project / "profiles/mine.yaml").read_text()
    text = StringIO()
    YAML().dump({"a": None}, text)
    assert text.getvalue() == "a:\n"


def leaves(node, place=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*place, key))
    else:
        yield place, node


def value_at(node, place):
    for key in place:
        node = node[key]
    return node


def test_areas_and_boxes_that_the_json_leaves_out_are_measured_on_the_maps(project):
    root = write_scenes_like(project / "data/mine")
    cli.main(["new-profile", "--root", "data/mine"])
    document = json.loads((root / "train.json").read_text())
    for annotation in document["annotations"]:
        for segment in annotation["segments_info"]:
            del segment["area"], segment["bbox"]
    (root / "train.json").write_text(json.dumps(document))
    cli.main(["new-profile", "--root", "data/mine", "--out", "profiles/other.yaml"])
    assert (project / "profiles/other.yaml").read_text() == (project / "profiles/mine.yaml").read_text()


# Which files are train's and val's.

LAYOUTS = {
    "COCO's": {
        "train": ("annotations/panoptic_train2017.json", "annotations/panoptic_train2017", "train2017"),
        "val": ("annotations/panoptic_val2017.json", "annotations/panoptic_val2017", "val2017"),
    },
    "Mapillary Vistas'": {
        "train": ("training/v2.0/panoptic/panoptic_2020.json", "training/v2.0/panoptic", "training/images"),
        "val": ("validation/v2.0/panoptic/panoptic_2020.json", "validation/v2.0/panoptic", "validation/images"),
    },
    "one folder of photos": {
        "train": ("panoptic_train.json", "panoptic_train", "images"),
        "val": ("panoptic_val.json", "panoptic_val", "images"),
    },
    "one folder of maps": {"train": ("train.json", "panoptic", "images"), "val": ("val.json", "panoptic", "images")},
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def layout(request, tmp_path):
    """A data set in such a layout, and beside it what is none: instances, captions, a split for tests."""
    drawn = write_scenes_like(tmp_path / "drawn", train=2, val=2)
    root = tmp_path / "evaluation" / "set"
    for name, (annotations, maps, photos) in request.param.items():
        for to in (annotations, maps, photos):
            (root / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(drawn / "panoptic", root / maps, dirs_exist_ok=True)
        shutil.copytree(drawn / "images", root / photos, dirs_exist_ok=True)
        shutil.copy(drawn / f"{name}.json", root / annotations)
        (root / annotations).with_name(f"instances_{name}.json").write_text(
            '{"images": [], "annotations": [{"id": 1}]}'
        )
        (root / annotations).with_name(f"captions_{name}.json").write_text("[]")
    (root / "broken_train.json").write_text("{")
    return root, request.param


def test_files_are_found_in_every_usual_layout(layout):
    root, places = layout
    found = find_splits(root, ("train", "val"))
    assert list(found) == ["train", "val"]
    for name, expected in places.items():
        one = found[name]
        assert tuple(str(path.relative_to(root)) for path in (one.annotations, one.maps, one.photos)) == expected


def test_files_may_be_named_instead(project):
    root = write_scenes_like(project / "data/mine")
    (root / "train.json").rename(root / "a.json")
    (root / "val.json").rename(root / "b.json")
    files = {
        name: [root / f"{stem}.json", root / "panoptic", root / "images"]
        for name, stem in (("train", "a"), ("val", "b"))
    }
    words = [str(word) for name, paths in files.items() for word in (f"--{name}", *paths)]
    cli.main(["new-profile", "--root", "data/mine", *words])
    folder = load_params(project / "profiles/mine.yaml").prepare.coco_panoptic
    assert (folder.train.annotations, folder.val.annotations, folder.val.panoptic_dir) == (
        "a.json",
        "b.json",
        "panoptic",
    )


def test_a_split_that_is_given_needs_no_name_that_says_so(project):
    root = write_scenes_like(project / "data/mine")
    (root / "train.json").rename(root / "a.json")
    files = [str(root / name) for name in ("a.json", "panoptic", "images")]
    cli.main(["new-profile", "--root", "data/mine", "--train", *files])
    folder = load_params(project / "profiles/mine.yaml").prepare.coco_panoptic
    assert (folder.train.annotations, folder.val.annotations) == ("a.json", "val.json")


# What is refused.


@pytest.mark.usefixtures("project")
def test_a_set_without_val_is_refused_with_the_command_that_takes_one_out(project, refused):
    root = write_scenes_like(project / "data/mine")
    (root / "val.json").unlink()
    line = refused("new-profile", "--root", "data/mine")
    assert "no COCO panoptic JSON with 'val' in its name, there is data/mine/train.json" in line
    command = line.partition("`antvisionps ")[2].partition("`")[0].replace("PNGS", "data/mine/panoptic")
    cli.main(command.replace("PHOTOS", "data/mine/images").replace("DIR", "data/two").split())
    cli.main(["new-profile", "--root", "data/two"])
    assert load_params(project / "profiles/two.yaml").prepare.coco_panoptic.root == "data/two"


@pytest.mark.usefixtures("project")
def test_what_is_no_data_set_is_one_line(project, refused):
    (project / "data/mine").mkdir(parents=True)
    assert "nowhere: no such folder; correct --root" in refused("new-profile", "--root", "nowhere")
    assert "`antvisionps convert`" in refused("new-profile", "--root", "data/mine")
    root = write_scenes_like(project / "data/mine")
    shutil.rmtree(root / "panoptic")
    assert "no folder of its photos, as 000000000001.png, near it" in refused("new-profile", "--root", "data/mine")
    shutil.rmtree(root / "images")
    assert "no folder of its PNGs, as 000000000001.png, near it" in refused("new-profile", "--root", "data/mine")
    assert sorted(path.name for path in (project / "profiles").iterdir()) == sorted(
        path.name for path in (PROJECT / "profiles").iterdir()
    )


def test_annotations_that_prepare_would_refuse_are_refused_here(project, refused):
    root = write_scenes_like(project / "data/mine")
    next((root / "images").iterdir()).unlink()
    assert "1 of 12 photo files" in refused("new-profile", "--root", "data/mine")
    assert not (project / "profiles/mine.yaml").exists()


def test_a_profile_that_is_there_stays_unless_forced_and_without_ours_there_is_none(project, refused):
    write_scenes_like(project / "data/street")
    before = (project / "profiles/street.yaml").read_text()
    assert "street.yaml: there already; overwrite it with --force" in refused("new-profile", "--root", "data/street")
    assert (project / "profiles/street.yaml").read_text() == before
    words = ["new-profile", "--root", "data/street", "--out", "elsewhere.yaml"]
    cli.main(words)
    first = (project / "elsewhere.yaml").read_bytes()
    assert b"extends: profiles/built_in.yaml" in first
    cli.main([*words, "--force"])
    assert (project / "elsewhere.yaml").read_bytes() == first
    shutil.rmtree(project / "profiles")
    assert "no built_in.yaml, which a profile extends; run from the project's root" in refused(*words, "--force")
