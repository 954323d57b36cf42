import json
import os
import resource
import zipfile

import pytest
import torch

from antvisionps.core.errors import ModelError
from antvisionps.core.os_errors import explain
from antvisionps.models.blocks.state_dicts import read_state_dict
from antvisionps.models.training.weights import load_weights, read_network, save_weights, weights_sha256
from antvisionps.params.whole import load_params
from tests.drawing import category_set
from tests.tiny_run import PROJECT

NETWORK = {
    "end": "e_ups",
    "categories": category_set({1: "ring"}, {2: "sky"}).to_json(),
    "network": load_params(PROJECT / "params.yaml").train_e_ups.network("base"),
    "num_things": 1,
    "num_classes": 2,
}


def layer(inputs=3, outputs=2, *, bias=True):
    torch.manual_seed(inputs)
    return torch.nn.Linear(inputs, outputs, bias=bias)


def test_weights_come_back_bit_for_bit_and_give_the_same_file(tmp_path):
    saved = layer()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_weights(tmp_path / name, saved, network={"end": "test"})
    loaded = torch.nn.Linear(3, 2)
    load_weights(tmp_path / "a", loaded)
    assert torch.equal(loaded.weight, saved.weight)
    assert weights_sha256([tmp_path / "a"]) == weights_sha256([tmp_path / "b"])
    assert weights_sha256([tmp_path / "a"]) != weights_sha256([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("network", "difference"),
    [
        (layer(4), r"weight has shape \(2, 3\), expected \(2, 4\)"),
        (torch.nn.Sequential(layer()), "0.weight is missing"),
        (layer(bias=False), "bias is not part of this network"),
    ],
)
def test_weights_of_another_architecture_are_refused_and_leave_the_network_alone(tmp_path, network, difference):
    save_weights(tmp_path, layer(), network={})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ModelError, match=rf"weights\.pth: weights of another architecture: {difference}"):
        load_weights(tmp_path, network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_missing_truncated_and_unsafe_files_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"weights\.pth: no such file; train"):
        load_weights(tmp_path, layer())
    with pytest.raises(ModelError, match=r"network\.json: no readable network \(no such file\); train"):
        read_network(tmp_path)
    save_weights(tmp_path, layer(), network={})
    file = tmp_path / "weights.pth"
    for spoil in (lambda: file.write_bytes(file.read_bytes()[:-200]), lambda: torch.save({"weight": tmp_path}, file)):
        spoil()
        with pytest.raises(ModelError, match="cannot be read as a state dict"):
            load_weights(tmp_path, layer())
    (tmp_path / "network.json").write_text("{")
    with pytest.raises(ModelError, match=r"network\.json: no readable network"):
        read_network(tmp_path)


@pytest.mark.parametrize("load", ["load_weights", "read_state_dict"])
@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda state: {"weight": state["weight"] * float("nan")}, "weight holds NaN or infinity"),
        (lambda state: {"bias": state["bias"] / 0}, "bias holds NaN or infinity"),
        (lambda state: {"weight": state["weight"].to(torch.complex64)}, "weight holds no plain numbers|.*is of torch"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(tmp_path, load, spoil, problem):
    state = layer().state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state | spoil(state), path)
    with pytest.raises(ModelError, match=rf"^{path}: {problem}"):
        load_weights(tmp_path, layer()) if load == "load_weights" else read_state_dict(str(path))


def test_weights_of_another_kind_of_number_are_refused(tmp_path):
    torch.save({name: tensor.long() for name, tensor in layer().state_dict().items()}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"weight is of torch\.int64, expected torch\.float32"):
        load_weights(tmp_path, layer())


def test_a_flipped_bit_anywhere_in_the_tensors_is_found(tmp_path):
    path = tmp_path / "weights.pth"
    save_weights(tmp_path, layer(30, 20), network={})
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        tensors = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    for entry in tensors:
        header = whole[entry.header_offset :][:30]
        begin = entry.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        for offset in (begin, begin + entry.file_size - 1):
            damaged = bytearray(whole)
            damaged[offset] ^= 0x40
            path.write_bytes(damaged)
            with pytest.raises(ModelError, match=r"weights\.pth: cannot be read as a state dict"):
                load_weights(tmp_path, layer(30, 20))
            with pytest.raises(ModelError, match=r"weights\.pth: cannot be read as a state dict"):
                read_state_dict(str(path))


@pytest.mark.parametrize("content", [[1, 2], 3, "text", {1: torch.ones(2), "a": torch.ones(2)}, torch.ones(3), None])
def test_a_file_of_something_else_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"weights\.pth: [^\n]*$"):
        load_weights(tmp_path, layer())


def test_a_network_is_read_as_it_was_built(tmp_path):
    (tmp_path / "network.json").write_text(json.dumps(NETWORK))
    assert read_network(tmp_path).model_dump() == NETWORK


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (None, "not the network that is expected"),
        ({}, "end: Field required"),
        ([], "not the network"),
        (NETWORK | {"end": None}, "end: "),
        (NETWORK | {"categories": {}}, "categories: "),
        (NETWORK | {"num_things": 2}, "num_things and num_classes are not those of its categories"),
        (NETWORK | {"num_classes": 2.5}, "num_classes: .*integer"),
        (NETWORK | {"network": None}, "network: "),
        (NETWORK | {"more": 1}, "more: "),
    ],
)
def test_a_network_that_cannot_be_is_refused(tmp_path, document, problem):
    (tmp_path / "network.json").write_text(json.dumps(document))
    expected = rf"^{tmp_path}/network\.json: [^\n]*{problem}[^\n]*; train that network first"
    with pytest.raises(ModelError, match=expected):
        read_network(tmp_path)


@pytest.mark.parametrize("limit", [300, 1800])  # torch notices the first, and takes the second for written
def test_weights_that_the_disk_does_not_take_are_an_error_that_names_the_file(tmp_path, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError) as raised:
            save_weights(tmp_path, layer(), network={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert explain(raised.value).startswith(f"{tmp_path / 'weights.pth'}: Input/output error; the disk fails")


def test_weights_that_are_no_file_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"weights\.pth: .*expected a file, got a FIFO"):
        load_weights(tmp_path, layer())
