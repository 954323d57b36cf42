"""Manifests that `prepare` cannot have written."""

import json

import pytest

from antvisionps.core.errors import DataError
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from tests.panoptic.users_folder import prepare_folder


@pytest.mark.parametrize(("text", "reason"), [(None, "no such file"), ("{", "Expecting property name")])
def test_a_missing_or_broken_manifest_is_refused(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    for ask in (dataset_fingerprint, lambda folder: open_split(folder, "train")):
        with pytest.raises(DataError, match=rf"dataset\.json: no readable manifest \({reason}.*`dvc repro -f prepare`"):
            ask(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: {}, "fingerprint: Field required"),
        (lambda found: None, "not the manifest that is expected"),
        (lambda found: [found], "not the manifest"),
        (lambda found: found | {"fingerprint": 5}, "fingerprint: .*got 5"),
        (lambda found: found | {"root": ["a"]}, "root: "),
        (lambda found: found | {"splits": None}, "splits: "),
        (lambda found: found | {"splits": {"test": {}}}, "splits.test"),
        (lambda found: found | {"splits": {}}, "no split train"),
        (lambda found: found | {"categories": [{"id": "x"}]}, "categor"),
        (lambda found: found | {"categories": found["categories"][:1]}, "other images or categories than dataset.json"),
        (
            lambda found: found | {"splits": {"train": found["splits"]["train"] | {"images": 77}}},
            "other images or categ",
        ),
        (lambda found: found | {"splits": {"train": found["splits"]["train"] | {"images_dir": 1e400}}}, "images_dir: "),
        (lambda found: found | {"seed": 1}, "seed: "),
    ],
)
def test_a_manifest_that_prepare_cannot_have_written_is_refused(folder, change, problem):
    prepared = prepare_folder(folder)
    path = prepared / "dataset.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=rf"^{prepared}/[a-z.]*json: [^\n]*{problem}[^\n]*$"):
        open_split(prepared, "train")
