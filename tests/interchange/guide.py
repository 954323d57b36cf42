"""The guide's snippets, and what comes of a folder that they fill."""

import re

import numpy as np

from antvisionps.interchange.import_end import import_end
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from tests.pipeline.workspace import PROJECT

GUIDE = (PROJECT / "docs" / "your_own_data.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
HEIGHT, WIDTH = 64, 96


READERS = ((INSTANCES_FILE, InstancesReader), (SEMANTIC_FILE, SemanticReader))


def snippet(text):
    """The one of the guide that holds this text."""
    (found,) = (one for one in SNIPPETS if text in one)
    return found


def imported(files, dataset, identity):
    """The caches of what is in the folder, image_id → instances and semantics, None for a kind that is not there."""
    for name in ("panoptic", "semantic"):
        if (files / name).is_dir() and not any((files / name).iterdir()):
            (files / name).rmdir()
    import_end(files, files.parent / "cache", dataset=dataset, identity=identity)
    found = {image.image_id: [None, None] for image in dataset.images}
    for place, (name, reader) in enumerate(READERS):
        if (files.parent / "cache" / name).exists():
            with reader(files.parent / "cache" / name, identity) as cache:
                for image in cache:
                    found[image.image_id][place] = image
    return found


def assert_equal_caches(one, other, fields=()):
    """Image by image in these fields, or in all but the file's name."""
    for name, reader in READERS:
        with reader(one / name) as before, reader(other / name) as after:
            for image, again in zip(before, after, strict=True):
                for field in fields or set(type(image).__dataclass_fields__) - {"source"}:
                    np.testing.assert_array_equal(getattr(image, field, None), getattr(again, field, None))


def category_map(semantics):
    """(H, W) category ids, 0 where void."""
    return np.where(semantics.planes.any(axis=0), semantics.category_ids[semantics.planes.argmax(axis=0)], 0)


def names(dataset):
    """class index → name, as a model has them."""
    return {index: category.name for index, category in enumerate(dataset.categories.categories)}
