from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antvisionps.core.errors import DataError
from antvisionps.panoptic.segment_runs import (
    IMAGES_PER_GROUP,
    SegmentRunsReader,
    find_runs,
    images_of_group,
    write_runs,
)
from antvisionps.panoptic.segments import PanopticImage, measure_segments

REMEDY = "run `dvc repro prepare`"


def image_of(image_id, segment_ids):
    height, width = segment_ids.shape
    segments = measure_segments(segment_ids, category_ids=dict.fromkeys(np.unique(segment_ids).tolist(), 1))
    return PanopticImage(image_id, f"{image_id}.jpg", f"{image_id}.png", height, width, segments)


def random_maps(count, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.array([0, 3, 200, 70000, 256**3 - 1], dtype=np.int32)
    cells = (rng.choice(ids, rng.integers(1, 5, size=2)) for _ in range(count))
    return [np.kron(coarse, np.ones(rng.integers(1, 4, size=2), np.int32)) for coarse in cells]


def written(path, maps):
    images = [image_of(10 + index, ids) for index, ids in enumerate(maps)]
    with write_runs(path) as write:
        for ids, image in zip(maps, images, strict=True):
            write(find_runs(ids, image.segments))
    return images


def test_a_segment_of_another_area_than_its_runs_is_refused(tmp_path):
    maps = random_maps(3)
    images = written(tmp_path / "runs.parquet", maps)
    segment, *others = images[1].segments
    images[1] = replace(images[1], segments=(segment._replace(area_px=segment.area_px + 1), *others))
    with pytest.raises(DataError, match=f"the runs of image 11 are of other segments .*; {REMEDY}"):
        SegmentRunsReader(tmp_path / "runs.parquet", images, remedy=REMEDY).read(0)


def test_runs_count_segments_by_ascending_id():
    ids = np.array([[7, 7, 0], [0, 500, 7]])
    runs = find_runs(ids, image_of(1, ids).segments[::-1])
    assert runs.lengths.tolist() == [2, 2, 1, 1]
    assert runs.segment_indices.tolist() == [1, 0, 2, 1]
    assert runs.first_run.tolist() == [0, 4]


@pytest.mark.parametrize("count", [1, IMAGES_PER_GROUP, 2 * IMAGES_PER_GROUP + 5])
def test_maps_come_back_from_the_file_in_groups(tmp_path, count):
    maps = random_maps(count)
    images = written(tmp_path / "runs.parquet", maps)
    reader = SegmentRunsReader(tmp_path / "runs.parquet", images, remedy=REMEDY)
    found = []
    for group in range(len(reader)):
        runs = reader.read(group)
        for index, image in enumerate(images_of_group(images, group)):
            own = slice(runs.first_run[index], runs.first_run[index + 1])
            ids = np.array([0, *(segment.segment_id for segment in image.segments)])
            flat = np.repeat(ids[runs.segment_indices[own]], runs.lengths[own])
            found.append(flat.reshape(image.height, image.width))
    assert len(found) == count
    for expected, got in zip(maps, found, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_an_error_leaves_no_file(tmp_path):
    path = tmp_path / "runs.parquet"
    with pytest.raises(AttributeError), write_runs(path) as write:
        write(None)
    assert list(tmp_path.iterdir()) == []


def read_all(path, images):
    reader = SegmentRunsReader(path, images, remedy=REMEDY)
    return [reader.read(group) for group in range(len(reader))]


def refused(path, images, message):
    with pytest.raises(DataError, match=message) as raised:
        read_all(path, images)
    assert str(path) in str(raised.value)
    assert REMEDY in str(raised.value)


def test_files_that_are_missing_or_damaged_are_refused(tmp_path):
    path = tmp_path / "runs.parquet"
    images = written(path, random_maps(70))
    whole = path.read_bytes()
    refused(tmp_path / "none.parquet", images, "no such file")
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, images, "not a whole Parquet file")
    flipped = bytearray(whole)
    flipped[60] ^= 0xFF
    path.write_bytes(flipped)
    refused(path, images, "row group 0 is damaged")


def test_another_version_and_other_columns_are_refused(tmp_path):
    path = tmp_path / "runs.parquet"
    images = written(path, random_maps(3))
    table = pq.read_table(path)
    for metadata, named in ((None, "none"), ({"antvisionps.runs_version": "2"}, "2")):
        pq.write_table(table.replace_schema_metadata(metadata), path)
        refused(path, images, f"expected schema version 1, got {named}")
    pq.write_table(table.append_column("more", pa.array([1] * len(table))), path)
    refused(path, images, "expected the columns")


def test_runs_of_other_images_are_refused(tmp_path):
    path = tmp_path / "runs.parquet"
    images = written(path, random_maps(40))
    refused(path, images[:20], "expected 1 row groups for 20 images, got 2")
    refused(path, images[:39], "images 42 to 48 are of other sizes")
    other = replace(images[5], height=images[5].height + 1)
    refused(path, [*images[:5], other, *images[6:]], "images 10 to 41 are of other sizes")


def test_runs_of_other_segments_are_refused(tmp_path):
    path, ids = tmp_path / "runs.parquet", np.array([[1, 1, 0], [2, 2, 2]])
    images = written(path, [ids, ids, ids])
    fewer = replace(images[1], segments=images[1].segments[:1])
    refused(path, [images[0], fewer, images[2]], "image 11 are of other segments")
    more = replace(images[2], segments=(*images[2].segments, images[2].segments[0]._replace(segment_id=9)))
    refused(path, [*images[:2], more], "image 12 are of other segments")
