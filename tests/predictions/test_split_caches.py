import pytest

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import SemanticWriter
from antvisionps.predictions.split_caches import SplitCaches
from tests.predictions.test_cache import CATEGORIES, IMAGES, instances, semantics

BOTH = ("instances", "semantics")


@pytest.fixture
def caches(tmp_path):
    """Writes both files of end `mine` for both splits; opens those of val."""
    for split in ("heldout", "val"):
        header = CacheHeader("mine", split, "f", CATEGORIES, "w")
        folder = tmp_path / "mine" / split
        for writer, name, make in (
            (InstancesWriter, INSTANCES_FILE, instances),
            (SemanticWriter, SEMANTIC_FILE, semantics),
        ):
            with writer(folder / name, header) as cache:
                for image_id in IMAGES:
                    cache.write(make(image_id))
    images = tuple(PanopticImage(image_id, "a", "a", *hw, ()) for image_id, hw in IMAGES.items())
    dataset = PanopticDataset(tmp_path / "val.json", tmp_path, tmp_path, CATEGORIES, images)
    return lambda **promised: SplitCaches(tmp_path, "val", "f", dataset, promised)


def open_both(caches):
    return {*caches.open_instances(["mine"])}, {*caches.open_semantics(["mine"])}


def test_an_end_has_the_files_that_are_there(caches, tmp_path):
    assert open_both(caches(mine=BOTH)) == ({"mine"}, {"mine"})
    for split in ("heldout", "val"):
        (tmp_path / "mine" / split / INSTANCES_FILE).unlink()
    assert [*caches().open_semantics(["mine"])] == ["mine"]
    assert [*caches(mine=("semantics",)).open_semantics(["mine"])] == ["mine"]


@pytest.mark.parametrize("name", [INSTANCES_FILE, SEMANTIC_FILE])
def test_a_file_that_the_other_split_has_is_missed(caches, tmp_path, name):
    path = tmp_path / "mine" / "val" / name
    path.unlink()
    for read in ("open_instances", "open_semantics"):
        with pytest.raises(CacheError, match=rf"^{path}: no such file, but mine has one for heldout; run `dvc repro`"):
            getattr(caches(), read)(["mine"])


@pytest.mark.parametrize(("name", "kind"), [(INSTANCES_FILE, "instances"), (SEMANTIC_FILE, "semantics")])
def test_a_file_that_the_training_promises_is_missed_though_no_split_has_it(caches, tmp_path, name, kind):
    for split in ("heldout", "val"):
        (tmp_path / "mine" / split / name).unlink()
    with pytest.raises(CacheError, match=rf"mine/val/{name}: no such file, but mine is trained to predict {kind}"):
        open_both(caches(mine=BOTH))


def test_an_end_of_one_split_alone_is_what_it_has(caches, tmp_path):
    (tmp_path / "mine" / "val" / INSTANCES_FILE).unlink()
    (tmp_path / "mine" / "heldout").rename(tmp_path / "elsewhere")
    assert [*caches().open_semantics(["mine"])] == ["mine"]
