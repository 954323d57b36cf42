"""An interrupted prediction goes on with the next block, and ends in the bytes of one that was not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from antvisionps.models.inference import fill_caches as module
from antvisionps.models.inference.end_networks import EndNetworks
from antvisionps.models.inference.fill_caches import fill_caches
from antvisionps.models.inference.predict_photo import predict_photo
from tests.dvc_project import checksums
from tests.models.conftest import PREDICTION, build

MAX_PROPOSALS = 30
WEIGHTS = b"as they were"


@pytest.fixture
def fill(dataset, tmp_path, monkeypatch):
    """Predicts the three images, one a block, as held-out and as val, with two ends; counts those that a network sees,
    and ends with an error before it sees one more than `at_most`."""
    monkeypatch.setattr(module, "IMAGES_PER_BLOCK", 1)
    torch.manual_seed(0)
    (tmp_path / "weights.pth").write_bytes(WEIGHTS)
    folders = [[tmp_path]]
    ends = {end: EndNetworks([build(end).eval()], [1.0], MAX_PROPOSALS, folders) for end in ("e_ups", "hrnet_aspp")}
    splits = {"heldout": dataset, "val": dataset}

    def predict(out: str, *, at_most: int = 99, **settings) -> int:
        seen = []

        def count(photo, end, *args, **names):
            if len(seen) == at_most:
                raise KeyboardInterrupt
            seen.append(end)
            return predict_photo(photo, end, *args, **names)

        places = {"work_dir": tmp_path / "unfinished", "predictions_dir": tmp_path / out}
        with monkeypatch.context() as patch:
            patch.setattr(module, "predict_photo", count)
            try:
                fill_caches(ends, splits, replace(PREDICTION, **settings), dataset_fingerprint="0" * 64, **places)
            except KeyboardInterrupt:
                assert not (tmp_path / out).exists()
        return len(seen)

    return predict


def test_an_interrupted_prediction_goes_on_and_ends_in_the_same_bytes(fill, tmp_path):
    assert fill("whole") == 12
    assert fill("out", at_most=3) == 3  # the second block, half done
    assert fill("out", at_most=6) == 6  # the first of val
    assert fill("out") == 4
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")
    assert not list(tmp_path.rglob(".*.unfinished*"))
    assert not [path for path in (tmp_path / "unfinished").rglob("*") if path.is_file()]


def test_it_starts_anew_with_other_weights_settings_or_a_damaged_block(fill, tmp_path):
    fill("out", at_most=2)
    assert fill("other_settings", min_score=0.5) == 12
    (tmp_path / "weights.pth").write_bytes(b"others")
    assert fill("other_weights") == 12
    (tmp_path / "weights.pth").write_bytes(WEIGHTS)
    (block,) = (tmp_path / "unfinished").glob("*/heldout/0/hrnet_aspp/semantic.parquet")
    block.write_bytes(block.read_bytes()[:-20])
    assert fill("out") == 12


@pytest.mark.parametrize(("processes", "sizes"), [(1, [3]), (2, [2, 1]), (3, [1, 1, 1]), (8, [1, 1, 1])])
def test_images_that_are_fewer_than_a_block_are_shared_out(dataset, monkeypatch, processes, sizes):
    monkeypatch.setattr(module, "get_dist_info", lambda: (0, processes))
    blocks = module._blocks(dataset.images, Path())
    assert [len(block.images) for block in blocks] == sizes
    assert [image_id for block in blocks for image_id in block.image_ids] == [1, 2, 3]
