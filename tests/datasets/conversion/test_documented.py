"""Each command of docs/toolbox.md that converts is run, its placeholders filled in."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

import antvisionps
from antvisionps.cli import main as cli
from tests.datasets.conversion.conftest import HW, WRITTEN_BY_TOOLS, write_photos
from tests.tiny_run import PROJECT

PAGE = (PROJECT / "docs/toolbox.md").read_text()
COMMANDS = re.findall(r"`antvisionps (convert [^`…]+)`", PAGE)
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def places(tmp_path, photos, labelme):
    """What a placeholder stands for, by format: files of the two photos."""
    instances = json.loads((WRITTEN_BY_TOOLS / "label_studio_result.json").read_text())
    instances["categories"][2]["name"] = "sky"
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    for path in labelme.glob("*.json"):
        path.write_text(path.read_text().replace('"grass"', '"sky"'))
    write_photos(tmp_path / "yolo/images", ["1.png", "2.png"])
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/1.txt").write_text("0 0 0 1 0 1 1")
    (tmp_path / "yolo/data.yaml").write_text("train: images\nnames: [a]\n")
    (tmp_path / "labels").mkdir()
    for name in ("yard", "street"):
        Image.fromarray(np.full(HW, 1, dtype=np.uint8)).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "table.yaml").write_text("- {id: 1, name: road, isthing: 0}\n")
    words = ("--categories", "table.yaml", "--val-frac", "0", "--out", "one")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        cli.main(["convert", "pngs", "labels", "photos", *words, "--workers", "1"])
    for split in ("training", "validation"):
        shutil.copytree(photos, tmp_path / "vistas" / split / "images")
        maps = shutil.copytree(tmp_path / "one/panoptic_train", tmp_path / "vistas" / split / "v2.0/panoptic")
        shutil.copy(tmp_path / "one/panoptic_train.json", maps / "panoptic_2020.json")
    of_all = {"PHOTOS": "photos", "FOLDER": "labelme", "data.yaml": "yolo/data.yaml", "LABELS": "labels"}
    of_all |= {"FILE": "table.yaml", "ROOT": "vistas", "PNGS": "one/panoptic_train", "DIR": "out"}
    return lambda name: of_all | {"JSON": "instances.json" if name == "coco" else "one/panoptic_train.json"}


@pytest.mark.parametrize("command", COMMANDS, ids=COMMANDS)
def test_the_command_runs(command, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    filled = [places(words[1]).get(word, word) for word in words]
    if "--semantic" in words:
        filled[1 + words.index("--semantic")] = "labels"
    cli.main([*filled, "--workers", "1"])
    assert {path.name for path in (tmp_path / "out").iterdir()} >= (
        {"instances.json", "semantic"} if words[1] == "to-coco" else {"panoptic_train.json", "panoptic_val.json"}
    )


@pytest.mark.usefixtures("places")
def test_the_python_runs(tmp_path, monkeypatch, capsys):
    (code,) = (one for one in PYTHON if "antvisionps.convert." in one)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "labelme").rename(tmp_path / "elsewhere" / "photos")
    monkeypatch.chdir(tmp_path / "elsewhere")
    exec(code, {})
    assert {path.name for path in (tmp_path / "elsewhere" / "data").iterdir()} == {"mine", "back"}
    assert "Counter({" in capsys.readouterr().out


def test_every_format_has_its_command_and_its_function(capsys):
    with pytest.raises(SystemExit):
        cli.main(["convert", "--help"])
    formats = re.findall(r"^    ([a-z-]+) ", capsys.readouterr().out, flags=re.MULTILINE)
    assert set(formats) == {command.split()[1] for command in COMMANDS}
    assert all(callable(getattr(antvisionps.convert, name.replace("-", "_"))) for name in formats)
