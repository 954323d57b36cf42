"""A small data set, a cache of it like those of `predict`, and its export."""

import shutil

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from antvisionps import Writer
from antvisionps.core.errors import PredictionsError
from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.interchange.import_end import export_end, import_end
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader, CacheIdentity
from antvisionps.predictions.semantic import SemanticReader
from tests.drawing import found
from tests.interchange.guide import imported
from tests.pipeline.workspace import write_cache


@pytest.fixture(scope="package")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "prepared"
    prepare_scenes(folder, train_images=5, val_images=4, height=64, width=96, heldout_images=2, seed=3, workers=1)
    return folder


@pytest.fixture(scope="package")
def dataset(prepared):
    return open_split(prepared, "val")


@pytest.fixture(scope="package")
def identity(prepared, dataset):
    return CacheIdentity("mine", "val", dataset_fingerprint(prepared), dataset.categories)


@pytest.fixture(scope="package")
def native(tmp_path_factory, dataset, identity):
    """The folder of a cache like those of `predict`: noisy instances with mask_probs, planes on a coarse grid."""
    folder = tmp_path_factory.mktemp("native") / "mine" / "val"
    header = CacheHeader("mine", "val", identity.dataset_fingerprint, identity.categories, "w" * 64)
    write_cache(folder, header, dataset, np.random.default_rng(7), 4.0, noisy_instances)
    return folder


def noisy_instances(dataset, image, rng):
    ids = dataset.load_segment_ids(image)
    things = [s for s in image.segments if dataset.categories.by_id(s.category_id).is_thing] * 2
    masks = [np.roll(ids == s.segment_id, rng.integers(-3, 4, 2), axis=(0, 1)) for s in things]
    scores = rng.choice(np.array([0.1, 0.35, 0.7, 0.7, 1.0], np.float32), len(things))  # some of them equal
    return found(
        *((s.category_id, score, mask) for s, score, mask in zip(things, scores, masks, strict=True)),
        hw=(image.height, image.width),
        image_id=image.image_id,
        boxes_xywh=(rng.random((len(things), 4)) * 50).astype(np.float32),
        mask_probs=rng.integers(0, 256, (len(things), 28, 28), np.uint8),
    )


@pytest.fixture(scope="package")
def exported(tmp_path_factory, native, dataset, identity):
    folder = tmp_path_factory.mktemp("exported") / "files"
    export_end(native, folder, dataset=dataset, identity=identity)
    return folder


@pytest.fixture
def files(exported, tmp_path):
    """A copy of the exported files, to spoil."""
    return shutil.copytree(exported, tmp_path / "files")


@pytest.fixture
def refuse(dataset, identity):
    """Asserts that the import of a folder is refused with that message, of one line, and that nothing is written."""

    def assert_refused(files, match, dataset=dataset):
        with pytest.raises(PredictionsError, match=match) as refusal:
            import_end(files, files.parent / "cache", dataset=dataset, identity=identity)
        assert "\n" not in str(refusal.value)
        assert not list(files.parent.glob("*cache*"))

    return assert_refused


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder of predictions, and the current one."""
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.chdir(files)
    return files


@pytest.fixture
def folder(empty):
    """With the folders that the guide's snippets fill."""
    for name in ("panoptic", "semantic"):
        (empty / name).mkdir()
    return empty


@pytest.fixture
def ultralytics(tmp_path, monkeypatch):
    """The package; what its import replaces in others is put back."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    for module, name in ((PIL.Image, "open"), (cv2, "imread"), (cv2, "imwrite"), (cv2, "imshow"), (torch, "save")):
        monkeypatch.setattr(module, name, getattr(module, name))
    import ultralytics.engine.results
    import ultralytics.models.yolo.segment

    return ultralytics


@pytest.fixture
def cached(empty, dataset, identity):
    """What an import of the folder gives: image_id → instances and semantics."""
    return lambda: imported(empty, dataset, identity)


@pytest.fixture
def written(tmp_path, dataset):
    """Writes one result for every image, and returns what the first image has then."""

    def write(result, labels=None, **more):
        with Writer("tool", gt=dataset.annotations, to=tmp_path / "tool", labels=labels) as writer:
            for image in dataset.images:
                writer.add(image.image_id, result, **more)
        return read_first(tmp_path / "tool")

    return write


def read_first(folder):
    found = []
    for name, reader in ((INSTANCES_FILE, InstancesReader), (SEMANTIC_FILE, SemanticReader)):
        if not (folder / name).exists():
            found.append(None)
            continue
        with reader(folder / name) as cache:
            found.append(next(iter(cache)))
    return found
