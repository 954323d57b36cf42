"""Each line of docs/toolbox.md's table and each of its Python blocks runs, on what the stages left of a small data set.

Its conversions run in tests/datasets/conversion/test_documented.py, its notebook in tests/inspection/test_notebooks.py.
"""

import json
import re
import shlex
import shutil
from itertools import cycle

import numpy as np
import pytest

from antvisionps.cli import main as cli
from antvisionps.panoptic.splits import open_split
from tests.pipeline.workspace import export_cache
from tests.preflight.test_new_profile import write_scenes_like
from tests.test_docs import ROOT, anchors

PAGE = ROOT / "docs" / "toolbox.md"
ROWS = re.findall(
    r"^\| (?!question|---)(.+?) \| (.*?) ?\| ?(.*?) ?\|$", PAGE.read_text().partition("## Score")[0], re.MULTILINE
)
COMMANDS = [command for _, cell, _ in ROWS for command in re.findall(r"`antvisionps ([^`]+)`", cell)]
PYTHON = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
BLOCKS = {
    section.partition("\n")[0]: code for section in PAGE.read_text().split("\n## ") for code in PYTHON.findall(section)
}
"""Heading → its Python."""

HERE = ("score", "fuse", "import", "inspect", "new-profile", "export")

FUSED = "data/fused/{}/panoptic"
FILLED = {
    "score": {
        "JSON": ["data/prepared/val.json", f"{FUSED}.json".format("fusion"), f"{FUSED}.json".format("e_ups")],
        "DIR": ["data/prepared/panoptic", FUSED.format("fusion"), FUSED.format("e_ups")],
        "FILE": ["out/classes.csv", "out/images.csv"],
        "CSV": ["slices.csv"],
    },
    "fuse": {
        "A": ["data/predictions/e_ups/val", "data/predictions/e_ups/heldout"],
        "B": ["data/predictions/lwl_htc/val"],
        "JSON": ["data/prepared/val.json", "data/prepared/heldout.json"],
        "DIR": ["out/fused", "data/prepared/panoptic"],
    },
    "import": {"NAME": ["mine"], "DIR": ["exported/val", "exported/heldout"]},
    "new-profile": {"DIR": ["photos"]},
    "export": {"DIR": ["out/sent"]},
}
"""Command → placeholder → what it stands for, the first, second and third time."""


@pytest.fixture(scope="module")
def folder(done, tmp_path_factory):
    """A project in which the stages have run, files of a tool's predictions, and a data set."""
    root = tmp_path_factory.mktemp("toolbox")
    for name in ("prepared", "predictions", "fused"):
        shutil.copytree(getattr(done, name), root / "data" / name)
    shutil.copytree(ROOT / "profiles", root / "profiles")
    shutil.copy(ROOT / "dvc.yaml", root)
    shutil.copy(ROOT / "profiles" / "built_in.yaml", root / "params.yaml")
    for split in ("val", "heldout"):
        export_cache(done.root, "e_ups", split, root / "exported" / split)
    images = open_split(done.prepared, "val").images
    rows = [f"{image.file_name},{night}" for image, night in zip(images, "ynyny", strict=True)]
    (root / "slices.csv").write_text("\n".join(["file_name,night", *rows]))
    write_scenes_like(root / "photos")
    return root


@pytest.fixture
def things(folder):
    categories = json.loads((folder / "data/prepared/val.json").read_text())["categories"]
    return [row["name"] for row in categories if row["isthing"]]


@pytest.fixture
def coco_is_as_small(folder, things, monkeypatch):
    document = json.loads((folder / "data/prepared/val.json").read_text())
    sizes = {"test-dev2017": len(document["images"])}
    monkeypatch.setattr("antvisionps.interchange.coco_submission.IMAGES_OF_SET", sizes)
    kinds = (len(things), len(document["categories"]) - len(things))
    monkeypatch.setattr("antvisionps.interchange.coco_submission.THINGS_AND_STUFF", kinds)


def fill(command, things):
    """The command's words, its placeholders filled in; a model's folder under a name of its own."""
    words = shlex.split(command)
    values = {name: iter(of_name) for name, of_name in FILLED.get(words[0], {}).items()}
    for word in words:
        option, equals, value = word.rpartition("=")
        if option == "instances":
            of_things = ", ".join(f"{thing}: {model}" for thing, model in zip(things, cycle("ab")))
            yield f"instances={{{of_things}}}"
        elif value in ("A", "B"):
            yield f"{value.lower()}={next(values[value])}"
        else:
            yield option + equals + next(values.get(value, iter([value])))


def test_every_line_has_a_command_or_python_and_is_run_somewhere():
    assert len(ROWS) > 25
    assert [question for question, command, python in ROWS if not command and not python] == []
    assert {command.split()[0] for command in COMMANDS} == {*HERE, "convert"}
    places = [place for *_, python in ROWS for place in re.findall(r"\]\(#([\w-]+)\)", python)]
    assert {place for place in places if place.capitalize() not in BLOCKS} == set()
    assert set(places) <= set(anchors(PAGE))


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.split()[0] in HERE])
@pytest.mark.usefixtures("coco_is_as_small")
def test_the_command_runs(command, folder, things, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = [*fill(command, things)]
    assert not {"JSON", "DIR", "FILE", "CSV", "NAME", "A", "B"} & {word.rpartition("=")[2] for word in words}
    cli.main([*words, *(["--workers", "1"] if words[0] in ("score", "fuse") else [])])
    assert capsys.readouterr().out


@pytest.mark.parametrize("heading", sorted(BLOCKS.keys() - {"Convert"}))
def test_the_python_runs(heading, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    document = json.loads((folder / "data/prepared/val.json").read_text())
    photos = [(row["id"], np.zeros((row["height"], row["width"], 3), np.uint8)) for row in document["images"]]
    names = [row["name"] for row in document["categories"]]
    exec(BLOCKS[heading], {"photos": photos, "labels": names, "predict": lambda photo: photo[..., 0]})
    printed = capsys.readouterr().out
    ends_of = {"Score": ("", "\n1.0\n"), "Fuse": ("[[2 2 2 ", ""), "Look": ("", ""), "Save": ("", "")}
    begin, end = ends_of[heading]
    assert printed.startswith(begin)
    assert printed.endswith(end)
    assert heading != "Save" or (folder / "out/val/semantic.parquet").is_file()


def test_the_readmes_five_lines_fuse(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (code,) = (one for one in PYTHON.findall((ROOT / "README.md").read_text()) if "antvisionps.fuse(" in one)
    assert len(code.strip().splitlines()) == 5
    document = (folder / "data/prepared/val.json").read_text()
    (folder / "val.json").write_text(document)
    thing_id = next(row["id"] for row in json.loads(document)["categories"] if row["isthing"])
    found = {"masks": np.ones((1, 96, 128), bool), "scores": [0.9], "category_ids": [thing_id]}
    models = {name: lambda photo: found for name in ("maskrcnn", "yolo")}
    exec(code, models | {"photo": np.zeros((96, 128, 3), np.uint8)})
    assert "end='maskrcnn+yolo'" in capsys.readouterr().out
