"""What `antvisionps convert` wrote, read by panopticapi, and slow ways to make and compare such maps."""

import json
from pathlib import Path

import numpy as np
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image


class Result:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def splits(self):
        return sorted(path.stem.removeprefix("panoptic_") for path in self.folder.glob("panoptic_*.json"))

    def document(self, split="train"):
        return json.loads((self.folder / f"panoptic_{split}.json").read_text())

    def categories(self):
        return {row["id"]: row for row in self.document()["categories"]}

    def segments(self, name, split="train"):
        """{(category_id, iscrowd, mask as bytes)} of the image of that photo, with or without its folders, of all
        segments that the JSON lists."""
        document = self.document(split)
        photo_of = {row["id"]: Path(row["file_name"]).with_suffix("") for row in document["images"]}
        (image_id,) = (key for key, photo in photo_of.items() if name in (photo.name, photo.as_posix()))
        (annotation,) = (row for row in document["annotations"] if row["image_id"] == image_id)
        ids = rgb2id(np.array(Image.open(self.folder / f"panoptic_{split}" / annotation["file_name"])))
        assert set(np.unique(ids)) - {0} == {row["id"] for row in annotation["segments_info"]}
        return {
            (row["category_id"], row["iscrowd"], (ids == row["id"]).tobytes()) for row in annotation["segments_info"]
        }

    def names(self, split="train"):
        return sorted(Path(row["file_name"]).stem for row in self.document(split)["images"])

    def contents(self):
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and "images_" not in str(path)
        }


def paint(hw, regions, thing_ids):
    """The segments of (category_id, iscrowd, mask (H, W)) by the rule, pixel by pixel: stuff, crowds, things from the
    largest to the smallest."""
    owner = np.full(hw, -1)
    stuff = [one for one in regions if one[0] not in thing_ids]
    crowds = [one for one in regions if one[0] in thing_ids and one[1]]
    things = [one for one in regions if one[0] in thing_ids and not one[1]]
    ordered = [
        one for kind in (stuff, crowds, things) for one in sorted(kind, key=lambda one: -np.count_nonzero(one[2]))
    ]
    for index, (_, _, mask) in enumerate(ordered):
        owner[mask.astype(bool)] = index
    found = {}
    for index, (category_id, crowd, _) in enumerate(ordered):
        visible = owner == index
        key = (category_id, 0, 0) if category_id not in thing_ids else (category_id, crowd, 1 + index)
        if visible.any():
            found[key] = found.get(key, False) | visible
    return {(category_id, crowd, mask.tobytes()) for (category_id, crowd, _), mask in found.items()}


def panopticapi_pq(result, other, split="train"):
    """PQ, by panopticapi, of the maps of one result against those of the other, photo by photo."""
    annotations = []
    for one in (result, other):
        document = one.document(split)
        name_of = {row["id"]: Path(row["file_name"]).stem for row in document["images"]}
        annotations.append({name_of[row["image_id"]]: row for row in document["annotations"]})
    pairs = [(annotations[0][name], annotations[1][name]) for name in sorted(annotations[0])]
    folders = [str(one.folder / f"panoptic_{split}") for one in (result, other)]
    categories = result.categories()
    return pq_compute_single_core(0, pairs, *folders, categories).pq_average(categories, isthing=None)[0]["pq"]


def renumbered_pq(result, exact):
    """panopticapi's PQ of all, where the tool numbers a and b in its own way."""
    by_name = {row["name"]: row["id"] for row in exact.document()["categories"]}
    document = result.document()
    new = {row["id"]: by_name[row["name"]] for row in document["categories"]}
    for annotation in document["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = new[segment["category_id"]]
    for row in document["categories"]:
        row["id"] = new[row["id"]]
    (result.folder / "panoptic_train.json").write_text(json.dumps(document))
    return panopticapi_pq(exact, result)


def write_result(folder: Path, images, categories, split="train"):
    """A data set of (name, ids (H, W), [(id, category_id)]), written without the package."""
    (folder / f"panoptic_{split}").mkdir(parents=True, exist_ok=True)
    document = {"images": [], "annotations": [], "categories": categories}
    for number, (name, ids, segments) in enumerate(images, start=1):
        height, width = ids.shape
        Image.fromarray(id2rgb(ids)).save(folder / f"panoptic_{split}" / f"{name}.png")
        document["images"].append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        rows = [
            {"id": segment, "category_id": category, "iscrowd": 0, "area": int((ids == segment).sum())}
            for segment, category in segments
        ]
        document["annotations"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": rows})
    (folder / f"panoptic_{split}.json").write_text(json.dumps(document))
    return Result(folder)
