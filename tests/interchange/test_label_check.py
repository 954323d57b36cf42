"""Labels that are numbers of categories, but not of the ones that they mean."""

import json

import numpy as np
import pytest
from PIL import Image

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.import_end import import_end
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import PanopticImage, class_index_map, measure_segments
from antvisionps.predictions.schema import CacheIdentity
from tests.drawing import category_set

CATEGORIES = category_set({1: "cat", 2: "dog", 5: "fish"}, {3: "sky", 4: "sand", 6: "sea"})
BY_ID = [1, 2, 3, 4, 5, 6]
THINGS = [1, 2, 5]
"""Ids with a gap: counted from 1 they are 1, 2, 3."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """20 images of blocks, each of a segment of its own; a tenth is void."""
    folder = tmp_path_factory.mktemp("truth")
    rng = np.random.default_rng(1)
    images = []
    for image_id in range(1, 21):
        ids = np.kron(rng.permutation(np.arange(20)).reshape(4, 5), np.ones((8, 8), int))
        category_of = dict(zip(range(1, 20), rng.choice(BY_ID, 19).tolist(), strict=True))
        write_segment_ids_png(folder / f"{image_id}.png", ids)
        segments = measure_segments(ids, category_ids=category_of)
        images.append(PanopticImage(image_id, f"{image_id}.jpg", f"{image_id}.png", 32, 40, segments))
    write_panoptic_json(folder / "val.json", categories=CATEGORIES, images=images)
    return read_panoptic(folder / "val.json", images_dir=folder, panoptic_dir=folder)


IDENTITY = CacheIdentity("mine", "val", "f" * 64, CATEGORIES)


def predicted(truth, image, right_frac, rng):
    """(H, W) category ids as a network finds them: the truth, but for some blocks; void is called sky."""
    classes = class_index_map(truth.load_segment_ids(image), image, CATEGORIES)
    ids = np.append(CATEGORIES.category_ids, np.zeros(250, np.int32))[classes]
    ids[classes == 255] = 3
    wrong = np.kron(rng.random((4, 5)) > right_frac, np.ones((8, 8), bool))
    return np.where(wrong, np.kron(rng.choice(BY_ID, (4, 5)), np.ones((8, 8), int)), ids)


def write_labels(folder, truth, order, first=0, right_frac=0.8):
    """Label PNGs as a tool that counts the categories in that order."""
    rng = np.random.default_rng(2)
    (folder / "semantic").mkdir(parents=True)
    label_of = np.zeros(7, np.uint8)
    label_of[order] = np.arange(first, first + len(order))
    for image in truth.images:
        labels = label_of[predicted(truth, image, right_frac, rng)]
        Image.fromarray(labels).save(folder / "semantic" / f"{image.image_id}.png")
    return folder


def write_instances(folder, truth, label_of, right_frac=0.8):
    """COCO results of the true things that have a label, some with another's."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    rows = []
    for image in truth.images:
        ids = truth.load_segment_ids(image)
        for segment in image.segments:
            if segment.category_id in label_of:
                found = segment.category_id if rng.random() < right_frac else int(rng.choice(list(label_of)))
                counts = encode_masks((ids == segment.segment_id)[None])[0].decode()
                row = {"image_id": image.image_id, "category_id": label_of[found], "score": rng.random()}
                rows.append(row | {"segmentation": {"size": [32, 40], "counts": counts}})
    (folder / "instances.json").write_text(json.dumps(rows))
    return folder


def warnings_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]


ORDERS = {
    "0 over the categories by id": (BY_ID, 0),
    "0 over things, then stuff": ([*THINGS, 3, 4, 6], 0),
    "1 over things, then stuff": ([*THINGS, 3, 4, 6], 1),
}


@pytest.mark.parametrize("right_frac", [1.0, 0.8, 0.5])
@pytest.mark.parametrize("name", ORDERS)
def test_labels_of_another_count_stop_and_name_labels_json(tmp_path, truth, name, right_frac):
    order, first = ORDERS[name]
    files = write_labels(tmp_path / "files", truth, order, first, right_frac)
    with pytest.raises(
        PredictionsError, match=rf"agree .* of the pixels of 16 images.*counted from {name}; .*labels\.json"
    ):
        import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ORDERS)
def test_labels_that_a_table_explains_are_imported_without_a_word(tmp_path, truth, name, capsys):
    order, first = ORDERS[name]
    files = write_labels(tmp_path / "files", truth, order, first)
    (files / "labels.json").write_text(json.dumps(dict(enumerate(order, start=first))))
    import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)
    assert warnings_of(capsys) == []


@pytest.mark.parametrize("right_frac", [1.0, 0.8, 0.3, 0.15])
def test_a_poor_end_with_category_ids_is_imported(tmp_path, truth, right_frac, capsys):
    files = write_labels(tmp_path / "files", truth, BY_ID, 1, right_frac)
    import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)
    assert warnings_of(capsys) == []


def test_labels_that_agree_in_no_count_are_imported_with_a_warning(tmp_path, truth, capsys):
    files = write_labels(tmp_path / "files", truth, [5, 1, 2, 6, 3, 4], 1)
    import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)
    (warning,) = warnings_of(capsys)
    assert "no more than by chance" in warning
    assert (tmp_path / "out").exists()


def test_one_class_everywhere_is_no_reason_to_stop(tmp_path, truth, capsys):
    """It agrees with the truth where that class is, however it is counted."""
    (tmp_path / "files" / "semantic").mkdir(parents=True)
    for image in truth.images:
        Image.fromarray(np.full((32, 40), 3, np.uint8)).save(tmp_path / "files" / "semantic" / f"{image.image_id}.png")
    import_end(tmp_path / "files", tmp_path / "out", dataset=truth, identity=IDENTITY)
    (warning,) = warnings_of(capsys)
    assert "no more than by chance" in warning


def test_a_table_that_is_wrong_is_believed_with_a_warning(tmp_path, truth, capsys):
    files = write_labels(tmp_path / "files", truth, BY_ID, 0)
    (files / "labels.json").write_text(json.dumps([2, 3, 4, 5, 6, 1]))
    import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)
    assert len(warnings_of(capsys)) == 1


def test_instances_that_count_things_from_0_stop(tmp_path, truth):
    """Without a cat, which would be 0: all labels are categories, but for the truth."""
    files = write_instances(tmp_path / "files", truth, {2: 1, 5: 2})
    with pytest.raises(PredictionsError, match=r"instances of 16 images.*counted from 0 over things; .*labels\.json"):
        import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)
    (files / "labels.json").write_text(json.dumps(["cat", "dog", "fish"]))
    import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)


def test_instances_that_count_things_from_1_stop_at_the_first_that_is_none(tmp_path, truth):
    """As Ultralytics does."""
    files = write_instances(tmp_path / "files", truth, {1: 1, 2: 2, 5: 3})
    with pytest.raises(PredictionsError, match="stands here as a thing"):
        import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)


def test_instances_of_the_categories_ids_are_imported_without_a_word(tmp_path, truth, capsys):
    files = write_instances(tmp_path / "files", truth, {1: 1, 2: 2, 5: 5}, right_frac=0.4)
    import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)
    assert warnings_of(capsys) == []


def test_instances_that_agree_in_no_count_are_imported_with_a_warning(tmp_path, truth, capsys):
    files = write_instances(tmp_path / "files", truth, {1: 2, 2: 5, 5: 1}, right_frac=1)
    import_end(files, tmp_path / "out", dataset=truth, identity=IDENTITY)
    (warning,) = warnings_of(capsys)
    assert "of the instances of 16 images, no more than by chance" in warning


def test_a_map_of_void_and_a_truth_of_void_tell_nothing(tmp_path, truth, capsys):
    (tmp_path / "files" / "semantic").mkdir(parents=True)
    for image in truth.images:
        Image.fromarray(np.zeros((32, 40), np.uint8)).save(tmp_path / "files" / "semantic" / f"{image.image_id}.png")
    import_end(tmp_path / "files", tmp_path / "out", dataset=truth, identity=IDENTITY)
    assert warnings_of(capsys) == []


@pytest.mark.parametrize("category_id", [4, 0])
def test_an_end_of_one_category_alone_is_imported_without_a_word(tmp_path, capsys, category_id):
    """There is no chance to compare with: all that is found and true is of one class, but for a little void."""
    categories = category_set({category_id: "cell"}, {})
    (tmp_path / "files" / "semantic").mkdir(parents=True)
    images = []
    for image_id in (1, 2):
        ids = np.ones((8, 8), int)
        write_segment_ids_png(tmp_path / f"{image_id}.png", ids)
        segments = measure_segments(ids, category_ids={1: category_id})
        images.append(PanopticImage(image_id, f"{image_id}.jpg", f"{image_id}.png", 8, 8, segments))
        labels = np.full((8, 8), category_id, np.uint8)
        labels[0, 0] = 255
        Image.fromarray(labels).save(tmp_path / "files" / "semantic" / f"{image_id}.png")
    write_panoptic_json(tmp_path / "val.json", categories=categories, images=images)
    truth = read_panoptic(tmp_path / "val.json", images_dir=tmp_path, panoptic_dir=tmp_path)
    identity = CacheIdentity("mine", "val", "f" * 64, categories)
    import_end(tmp_path / "files", tmp_path / "out", dataset=truth, identity=identity)
    assert warnings_of(capsys) == []
