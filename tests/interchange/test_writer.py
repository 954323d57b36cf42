"""Writer's folder: images in any order, whole or not at all, read by the stage and by the fusion."""

import json

import numpy as np
import pytest
import torch

from antvisionps import Writer
from antvisionps.core.errors import OutputError, PredictionsError
from antvisionps.interchange.import_end import import_end
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from tests.interchange.guide import HEIGHT, WIDTH, assert_equal_caches, imported, names, snippet
from tests.interchange.test_transformers import eomt, make_sure, mask2former, predict
from tests.pipeline.workspace import bytes_below

FIELDS = ("category_ids", "scores", "boxes_xywh", "rles", "planes")


def as_dict(instances, semantics):
    """What a cache has of an image, as one would give it."""
    rles = [{"size": [instances.height, instances.width], "counts": rle} for rle in instances.rles]
    found = {"masks": rles, "scores": instances.scores, "category_ids": instances.category_ids}
    found |= {"boxes_xywh": instances.boxes_xywh, "mask_probs": instances.mask_probs}
    return found | {"semantic": semantics.planes, "semantic_labels": semantics.category_ids}


@pytest.fixture
def results(native, identity):
    with (
        InstancesReader(native / INSTANCES_FILE, identity) as instances,
        SemanticReader(native / SEMANTIC_FILE, identity) as semantics,
    ):
        return {one.image_id: as_dict(one, planes) for one, planes in zip(instances, semantics, strict=True)}


def write(folder, dataset, results, order):
    with Writer("mine", gt=dataset.annotations, to=folder) as writer:
        for image_id in order:
            writer.add(image_id, results[image_id])
    return folder


def test_a_cache_comes_back_whole_with_its_mask_probs(tmp_path, native, dataset, identity, results, capsys):
    import_end(write(tmp_path / "w", dataset, results, results), tmp_path / "c", dataset=dataset, identity=identity)
    assert "warning" not in capsys.readouterr().err
    assert_equal_caches(native, tmp_path / "c", (*FIELDS, "mask_probs"))


def test_the_order_of_images_changes_no_byte_and_photos_are_named_in_three_ways(tmp_path, dataset, results):
    forwards = write(tmp_path / "forwards", dataset, results, results)
    with Writer("mine", gt=str(dataset.annotations), to=str(tmp_path / "backwards")) as writer:
        for image, name in zip(dataset.images[::-1], (np.int64, int, str, str), strict=True):
            given = name(image.image_id) if name is not str else f"photos/{image.file_name}"
            writer.add(given, results[image.image_id])
    assert bytes_below(forwards) == bytes_below(tmp_path / "backwards")


def test_an_image_that_is_missing_unknown_or_there_twice_is_refused_and_nothing_is_written(tmp_path, dataset, results):
    first, *others = results
    for order, match in (
        (others, f"nothing was added for 1 of 4 images of .*, {first} first; add every image, with \\[\\]"),
        ([first, first], f"image {first} was added before"),
    ):
        with pytest.raises(PredictionsError, match=match):
            write(tmp_path / "folder", dataset, results, order)
    with pytest.raises(PredictionsError, match="77 is not in this split"):
        write(tmp_path / "folder", dataset, results | {77: []}, [77])
    assert list(tmp_path.iterdir()) == []


def test_images_without_a_kind_that_others_have_are_empty_or_void(tmp_path, dataset):
    first, second, *others = dataset.images
    category = dataset.categories.things[0].category_id
    mask = np.ones((1, HEIGHT, WIDTH), bool)
    results = {image.image_id: [] for image in others}
    results[first.image_id] = {"masks": mask, "scores": [0.5], "category_ids": [category]}
    results[second.image_id] = np.full((HEIGHT, WIDTH), category)
    folder = write(tmp_path / "folder", dataset, results, results)
    with InstancesReader(folder / INSTANCES_FILE) as instances, SemanticReader(folder / SEMANTIC_FILE) as semantics:
        assert [len(image) for image in instances] == [1, 0, 0, 0]
        assert [bool(image.planes.any()) for image in semantics] == [False, True, False, False]


def test_what_was_written_for_other_images_or_categories_is_not_imported(tmp_path, dataset, identity, results, refuse):
    document = json.loads(dataset.annotations.read_text())

    def write_for(change):
        changed = json.loads(json.dumps(document))
        change(changed)
        (tmp_path / "gt.json").write_text(json.dumps(changed))
        with Writer("mine", gt=tmp_path / "gt.json", to=tmp_path / "w") as writer:
            for image in changed["images"]:
                writer.add(image["id"], [])
        return tmp_path / "w"

    def leave_one_out(changed):
        del changed["images"][0], changed["annotations"][0]

    def resize(changed):
        changed["images"][0]["height"] = 99

    def rename(changed):
        changed["categories"][0]["name"] = "unicorn"

    first = dataset.images[0].image_id
    refuse(write_for(leave_one_out), f"image {first} is missing; every image of the split is needed")
    refuse(write_for(resize), "expected 64 x 96 px .* got 99 x 96")
    refuse(write_for(rename), "other categories than the data set's")


@pytest.mark.parametrize("build", [mask2former, eomt], ids=lambda build: build.__name__)
def test_panoptic_results_of_transformers_are_those_of_its_files(folder, dataset, identity, tmp_path, build):
    torch.manual_seed(0)
    model, processor, more = build(names(dataset))
    rows = []
    with Writer("mine", gt=dataset.annotations, to=tmp_path / "w", labels=model.config.id2label) as writer:
        for image in dataset.images:
            outputs = make_sure(predict(model, processor, dataset.load_photo(image), more), seed=image.image_id)
            scope = {"np": np, "processor": processor, "height": HEIGHT, "width": WIDTH, "rows": rows}
            scope |= {"image_id": image.image_id, "outputs": outputs}
            exec(snippet("post_process_panoptic_segmentation"), scope)
            writer.add(image.image_id, scope["result"])
    (folder / "panoptic.json").write_text(json.dumps(rows))
    (folder / "labels.json").write_text(json.dumps(model.config.id2label))
    imported(folder, dataset, identity)
    import_end(tmp_path / "w", tmp_path / "c", dataset=dataset, identity=identity)
    assert_equal_caches(folder.parent / "cache", tmp_path / "c", FIELDS)


@pytest.mark.parametrize("build", [mask2former, eomt], ids=lambda build: build.__name__)
def test_outputs_of_models_of_transformers_are_taken_as_they_are(dataset, tmp_path, build):
    torch.manual_seed(0)
    model, processor, more = build(names(dataset))
    with Writer("mine", gt=dataset.annotations, to=tmp_path / "w", labels=model.config.id2label) as writer:
        for image in dataset.images:
            writer.add(image.image_id, predict(model, processor, dataset.load_photo(image), more))
    with InstancesReader(tmp_path / "w" / INSTANCES_FILE) as cache:
        found = [image for image in cache if len(image)]
        assert found
        assert all(image.mask_probs is not None for image in found)
    with SemanticReader(tmp_path / "w" / SEMANTIC_FILE) as cache:
        for image in cache:  # of every pixel the probabilities sum to 1, but for rounding
            np.testing.assert_allclose(image.planes.sum(axis=0), 255.0, atol=len(dataset.categories) / 2)


def test_a_folder_of_other_files_is_not_replaced(tmp_path, dataset, results):
    write(tmp_path / "out" / "mine", dataset, results, results)
    with pytest.raises(OutputError, match="out: holds mine, and is replaced whole; name a new folder"):
        write(tmp_path / "out", dataset, results, results)
    before = bytes_below(tmp_path / "out")
    (tmp_path / "out" / "mine" / ".DS_Store").touch()
    write(tmp_path / "out" / "mine", dataset, results, results)
    assert bytes_below(tmp_path / "out") == before


@pytest.mark.parametrize("annotations", [{"annotations": []}, {}])
def test_images_that_nobody_annotated_can_be_predicted(tmp_path, dataset, results, annotations):
    document = json.loads(dataset.annotations.read_text())
    del document["annotations"]
    (tmp_path / "gt.json").write_text(json.dumps(document | annotations))
    with Writer("mine", gt=tmp_path / "gt.json", to=tmp_path / "out") as writer:
        for image_id, result in results.items():
            writer.add(image_id, result)
    with InstancesReader(tmp_path / "out" / INSTANCES_FILE) as instances:
        assert [len(image) for image in instances] == [len(result["scores"]) for result in results.values()]


def test_text_ids_that_end_like_photos_are_ids(tmp_path, dataset, results):
    document = json.loads(dataset.annotations.read_text())
    own_id = {row["id"]: f"{place}/1.jpg" for place, row in enumerate(document["images"])}
    for image, annotation in zip(document["images"], document["annotations"], strict=True):
        annotation["image_id"] = own_id[annotation["image_id"]]
        image["id"] = own_id[image["id"]]
    (tmp_path / "gt.json").write_text(json.dumps(document))
    with Writer("mine", gt=tmp_path / "gt.json", to=tmp_path / "out") as writer:
        for image_id, result in results.items():
            writer.add(own_id[image_id], result)
    with InstancesReader(tmp_path / "out" / INSTANCES_FILE) as instances:
        assert [len(image) for image in instances] == [len(result["scores"]) for result in results.values()]


def test_a_photo_whose_name_is_the_number_of_another_image_is_itself(tmp_path, dataset, results):
    document = json.loads(dataset.annotations.read_text())
    first, second = document["images"][:2]
    first["file_name"] = f"{second['id']:06d}.jpg"
    (tmp_path / "gt.json").write_text(json.dumps(document))
    with Writer("mine", gt=tmp_path / "gt.json", to=tmp_path / "out") as writer:
        for image in document["images"]:
            writer.add(f"photos/{image['file_name']}", results[image["id"]])
    write(tmp_path / "by_id", dataset, results, results)
    assert_equal_caches(tmp_path / "out", tmp_path / "by_id", ("image_id", "category_ids"))


def test_a_table_of_labels_beside_what_was_written_is_refused(tmp_path, dataset, results, refuse):
    folder = write(tmp_path / "w", dataset, results, results)
    (folder / "labels.json").write_text("{}")
    refuse(
        folder, r"labels.json: has no effect on what Writer wrote; remove it, and write the folder again with Writer"
    )
