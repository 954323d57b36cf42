"""Files that a network cannot start from: one error, and the network is left alone."""

import pickle

import numpy as np
import pytest
import torch
import torchvision

from antvisionps.core.errors import ModelError
from antvisionps.models.training.start import start_from
from tests.models.training.test_start import CATEGORIES, network, saved, torchvisions


def backbone_of(name, **meta):
    """Writes a file of mmdet's with that ResNet."""

    def write(folder):
        with torch.device("meta"):
            model = getattr(torchvision.models, name)()
        state = {f"backbone.{key}": torch.ones(t.shape) for key, t in model.state_dict().items() if "fc" not in key}
        torch.save({"meta": meta, "state_dict": state}, folder / "f.pth")

    return write


def changed(change):
    def write(folder):
        state = {key: tensor.clone() for key, tensor in torchvisions().state_dict().items()}
        change(state)
        torch.save(state, folder / "f.pth")

    return write


def shortened(folder):
    saved(torchvisions(), folder, "f.pth")
    content = (folder / "f.pth").read_bytes()
    (folder / "f.pth").write_bytes(content[: len(content) // 2])


WRONG = {
    "missing": (lambda folder: None, r"f\.pth: no such file; set load_from to null or to a state dict"),
    "a folder": (lambda folder: (folder / "f.pth").mkdir(), r"f\.pth: expected a file, got a folder"),
    "truncated": (shortened, r"f\.pth: cannot be read as a state dict"),
    "a pickle": (
        lambda folder: (folder / "f.pth").write_bytes(pickle.dumps({"a": np.ones(2)})),
        r"f\.pth: cannot be read as a state dict \(it is no file of torch's\)",
    ),
    "a whole model": (
        lambda folder: torch.save(torch.nn.Linear(2, 2), folder / "f.pth"),
        r"it holds torch\.nn\.modules\.linear\.Linear beside tensors, .*save the state dict alone",
    ),
    "no tensors": (lambda folder: torch.save({"a": 1}, folder / "f.pth"), r"f\.pth: expected tensors by name"),
    "not a number": (
        changed(lambda state: state["rpn.head.cls_logits.bias"].fill_(float("nan"))),
        r"f\.pth: rpn\.head\.cls_logits\.bias holds NaN or infinity",
    ),
    "a classifier": (
        lambda folder: saved(torchvision.models.resnet18(), folder, "f.pth"),
        r"nothing of it fits the network's backbone; .*got bn1, conv1, fc, layer1; .*backbone\.weights",
    ),
    "a wider backbone": (backbone_of("resnet50"), r"another architecture: backbone\.layer1\.0\.conv1\.weight of shape"),
    "a longer backbone": (backbone_of("resnet34"), r"another architecture: backbone\.layer1\.2\.\S+ is not part of"),
    "a backbone without a layer": (
        changed(lambda state: state.pop("backbone.body.layer4.0.conv1.weight")),
        r"another architecture: backbone\.layer4\.0\.conv1\.weight not in the file \(1 tensors differ\)",
    ),
    "Caffe's style": (
        backbone_of("resnet18", cfg="model = dict(backbone=dict(depth=18, style='caffe'))"),
        r"its backbone is of style caffe, .*; give a detector of style pytorch",
    ),
}


@pytest.mark.parametrize(("write", "complaint"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_error_and_leaves_the_network_alone(tmp_path, write, complaint):
    write(tmp_path)
    ours = network()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(ModelError, match=rf"^[^\n]*{complaint}[^\n]*$"):
        start_from(tmp_path / "f.pth", ours, CATEGORIES)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())
