import os

import pytest
import torch

from antvisionps.core.errors import ModelError
from antvisionps.models.training.weights import load_weights, read_network, save_weights, weights_sha256


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
    assert read_network(tmp_path / "a") == {"end": "test"}
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


def test_weights_that_are_no_file_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"weights\.pth: .*expected a file, got a FIFO"):
        load_weights(tmp_path, layer())
