"""Images under the names that other tools give them, and files under names that stay in their folder."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.image_names import ImageFinder, names_of
from antvisionps.interchange.import_end import export_end, import_end
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader


def renamed(dataset, names):
    """The same split with other names of photos."""
    images = zip(dataset.images, names, strict=True)
    return replace(dataset, images=tuple(replace(image, file_name=name) for image, name in images))


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("image_id", [7, 7.0, "munich_7"])
def test_a_result_names_its_image_by_id_or_by_photo(dataset, image_id):
    images = tuple(replace(dataset.images[0], image_id=i, file_name=f"city/munich_{i}.jpg") for i in (7, 8))
    assert ImageFinder(replace(dataset, images=images)).find(image_id, where="here").image_id == 7


@pytest.mark.parametrize("image_id", [9, 7.5, True, None, "", "munich", "7", "city/munich_7", [7], {}, float("nan")])
def test_any_other_is_not_of_the_split(dataset, image_id):
    images = (replace(dataset.images[0], image_id=7, file_name="city/munich_7.jpg"),)
    with pytest.raises(PredictionsError, match="here: image_id "):
        ImageFinder(replace(dataset, images=images)).find(image_id, where="here")


def test_a_name_of_two_photos_and_one_that_is_anothers_number_are_none(dataset):
    named = {1: "a/2.jpg", 2: "a/x.jpg", 3: "b/x.jpg", 4: "004.jpg"}
    images = tuple(replace(dataset.images[0], image_id=i, file_name=name) for i, name in named.items())
    finder = ImageFinder(replace(dataset, images=images))
    assert finder.find("004", where="here").image_id == 4
    for name in ("x", "2"):
        with pytest.raises(PredictionsError, match=f"here: image_id '{name}' "):
            finder.find(name, where="here")


@pytest.mark.parametrize("file_name", ["000003.jpg", "000001.jpg"], ids=["several", "none"])
def test_a_number_that_is_no_single_photo_is_not_taken_for_an_id(dataset, file_name):
    """Ultralytics writes the number of the photo's name as image_id, and the name as file_name."""
    named = {1: "a/000003.jpg", 2: "b/000003.jpg", 3: "a/000002.jpg"}
    images = tuple(replace(dataset.images[0], image_id=i, file_name=name) for i, name in named.items())
    finder = ImageFinder(replace(dataset, images=images))
    assert finder.find(2, where="here", file_name="000002.jpg").image_id == 3
    with pytest.raises(PredictionsError, match=f"'{file_name}' is no photo of this split, or the name of several"):
        finder.find(int(file_name[:6]), where="here", file_name=file_name)
    by_id = (replace(images[0], image_id=3, file_name="munich.jpg"),)  # photos may have been called by their ids
    assert ImageFinder(replace(dataset, images=by_id)).find(3, where="here", file_name="000003.jpg").image_id == 3


def test_label_pngs_may_leave_out_the_subfolders_of_the_photos(tmp_path, dataset, identity):
    """mmsegmentation writes all files into one folder."""
    cities = renamed(dataset, ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.JPG"])
    for place in ("flat/semantic", "tree/semantic/a", "tree/semantic/b"):
        (tmp_path / place).mkdir(parents=True)
    for number, name in enumerate(["a/1", "a/2", "b/3", "b/4"]):
        labels = Image.fromarray(np.full((64, 96), dataset.categories.category_ids[number], np.uint8))
        labels.save(tmp_path / "tree/semantic" / f"{name}.png")
        labels.save(tmp_path / "flat/semantic" / f"{name[2:]}.PNG")
    (tmp_path / "flat/semantic/.DS_Store").touch()
    for name in ("flat", "tree"):
        import_end(tmp_path / name, tmp_path / "cache" / name, dataset=cities, identity=identity)
        with SemanticReader(tmp_path / "cache" / name / SEMANTIC_FILE) as reader:
            assert [image.category_ids.tolist() for image in reader] == [[3], [8], [9], [14]]


def test_a_file_of_another_kind_is_called_so(files, refuse, dataset):
    name = names_of(dataset)
    (files / "semantic" / f"{next(iter(name))}.jpg").touch()
    refuse(files, r"\.jpg: a file of another kind; expected NAME\.png or NAME\.npz")


OUTSIDE = [
    "/etc/{}.jpg",
    "../{}.jpg",
    "../../a/{}.jpg",
    "a/../../{}.jpg",
    "..\\{}.jpg",
    "C:\\photos\\{}.jpg",
    "C:{}.jpg",
]


@pytest.mark.parametrize("pattern", OUTSIDE)
def test_a_photo_elsewhere_gives_its_last_part_to_the_exported_file(tmp_path, native, dataset, identity, pattern):
    """And the files come back as the same end."""
    odd = renamed(dataset, [pattern.format(number) for number in range(4)])
    folder = tmp_path / "deep" / "down"
    export_end(native, folder / "out", dataset=odd, identity=identity)
    assert below(tmp_path) == below(folder / "out" / ".." / ".." / "..")  # nothing but what is below tmp_path
    expected = ["instances.json", *(f"semantic/{number}.npz" for number in range(4))]
    assert below(tmp_path) == [f"deep/down/out/{name}" for name in expected]
    import_end(folder / "out", tmp_path / "again", dataset=odd, identity=identity)
    for name in (INSTANCES_FILE, SEMANTIC_FILE):
        assert (tmp_path / "again" / name).exists()


@pytest.mark.parametrize("name", ["a\0.jpg", "x/a\n.jpg", "\ud800.jpg"])
def test_a_name_that_no_folder_can_hold_is_one_error_and_leaves_nothing(tmp_path, native, dataset, identity, name):
    odd = renamed(dataset, ["0.jpg", name, "2.jpg", "3.jpg"])
    with pytest.raises(PredictionsError, match="would leave it") as refusal:
        export_end(native, tmp_path / "out", dataset=odd, identity=identity)
    assert "\n" not in str(refusal.value)
    assert below(tmp_path) == []


CLASHES = {
    "suffix": ["a/1.jpg", "a/1.png", "2.jpg", "3.jpg"],
    "flattened": ["/x/1.jpg", "../1.jpg", "2.jpg", "3.jpg"],
    "flattened onto one": ["1.jpg", "/y/1.jpg", "2.jpg", "3.jpg"],
    "dots": ["a/1.jpg", "./a//1.jpg", "2.jpg", "3.jpg"],
}


@pytest.mark.parametrize("names", CLASHES.values(), ids=CLASHES)
def test_photos_whose_files_would_be_one_are_refused(tmp_path, native, dataset, identity, names):
    with pytest.raises(PredictionsError, match=r"both would be of one file .*rename one of the photos"):
        export_end(native, tmp_path / "out", dataset=renamed(dataset, names), identity=identity)
    assert below(tmp_path) == []


def test_a_file_that_would_be_a_folder_is_refused(tmp_path, native, dataset, identity):
    odd = renamed(dataset, ["a.jpg", "a.npz/b.jpg", "2.jpg", "3.jpg"])
    with pytest.raises(PredictionsError, match=r"its file a\.npz would be a folder of other files; rename one"):
        export_end(native, tmp_path / "out", dataset=odd, identity=identity)
    assert below(tmp_path) == []


def test_results_in_the_other_usual_shapes_are_the_same_end(tmp_path, exported, dataset, identity):
    """An object with annotations; ids as photos' names or 3.0, a score a rounding above 1."""
    rows = json.loads((exported / "instances.json").read_text())
    for name in ("plain", "changed"):
        shutil.copytree(exported, tmp_path / name)
    for row in rows:
        row["image_id"], row["category_id"] = f"{row['image_id']:012d}", float(row["category_id"])
        row["score"] = 1.0000001 if row["score"] == 1 else row["score"]
        row["segmentation"]["size"] = [float(side) for side in row["segmentation"]["size"]]
    (tmp_path / "changed" / "instances.json").write_text(json.dumps({"info": {}, "annotations": rows}, indent=2))
    for name in ("plain", "changed"):
        import_end(tmp_path / name, tmp_path / "cache" / name, dataset=dataset, identity=identity)
    plain, changed = (import_rows(tmp_path / "cache" / name) for name in ("plain", "changed"))
    assert plain == changed


def import_rows(cache):
    with InstancesReader(cache / INSTANCES_FILE) as reader:
        return [
            (image.image_id, image.category_ids.tolist(), image.scores.tolist(), image.boxes_xywh.tolist(), image.rles)
            for image in reader
        ]


@pytest.mark.parametrize("text", ["[]", " [ ]\n"])
def test_an_end_that_found_nothing_is_an_end(tmp_path, dataset, identity, text):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "instances.json").write_text(text)
    import_end(tmp_path / "files", tmp_path / "cache", dataset=dataset, identity=identity)
    assert [len(rles) for *_, rles in import_rows(tmp_path / "cache")] == [0, 0, 0, 0]


def test_corners_in_the_place_of_a_box_are_refused(files, refuse):
    counts = np.zeros((64, 96), np.uint8, order="F")
    counts[20:40, 30:70] = 1
    rle = coco_mask.encode(counts)
    path = files / "instances.json"
    rows = json.loads(path.read_text())
    rows[0] |= {"bbox": [30, 20.5, 70, 40], "segmentation": {"size": [64, 96], "counts": rle["counts"].decode()}}
    path.write_text(json.dumps(rows))
    refuse(files, r"expected bbox \[x, y, width, height\].*these are the mask's left, top, right and bottom")


@pytest.mark.parametrize(
    ("bottom", "right", "box"),
    [
        (40, 60, [0.0, 0.6, 60.0, 40.9]),  # at the photo's top left, corners are nearly sides
        (20, 21, [0.0, 13.8, 20.9, 20.4]),  # the mask fills the upper third of the box
    ],
)
def test_a_box_is_taken_for_what_it_is_where_its_masks_corners_are_near_its_sides(
    files, dataset, identity, tmp_path, bottom, right, box
):
    path = files / "instances.json"
    rows = json.loads(path.read_text())
    mask = np.zeros(rows[0]["segmentation"]["size"], np.uint8, order="F")
    mask[round(box[1]) : bottom, :right] = 1
    rle = coco_mask.encode(mask)
    rows[0] |= {"bbox": box, "segmentation": rle | {"counts": rle["counts"].decode()}}
    path.write_text(json.dumps(rows))
    import_end(files, tmp_path / "cache", dataset=dataset, identity=identity)


def test_a_box_without_area_is_the_masks(files, dataset, identity, tmp_path):
    """detectron2 writes [0, 0, 0, 0] of Mask2Former."""
    path = files / "instances.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row | {"bbox": [0.0, 0.0, 0.0, 0.0]} for row in rows]))
    import_end(files, tmp_path / "zeros", dataset=dataset, identity=identity)
    path.write_text(json.dumps([{key: row[key] for key in row if key != "bbox"} for row in rows]))
    import_end(files, tmp_path / "none", dataset=dataset, identity=identity)
    assert import_rows(tmp_path / "zeros") == import_rows(tmp_path / "none")
