"""Pickles of strangers: what they hold is read, and what they ask for is not run."""

import collections
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.safe_pickle import load_numbers


class Strange:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    "value",
    [Strange(), print, collections.Counter("a"), torch.nn.Linear(1, 1), Path()],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_runs_nothing(tmp_path, monkeypatch, value, protocol):
    monkeypatch.chdir(tmp_path)
    Path("results.pkl").write_bytes(pickle.dumps([value], protocol))
    match = r"its pickle calls [\w.]+, which is not run; .* antvisionps\.Writer"
    with pytest.raises(PredictionsError, match=match) as refusal:
        load_numbers(Path("results.pkl"))
    assert "\n" not in str(refusal.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "array",
    [np.array([Strange()], dtype=object), np.array(["a"]), np.zeros(1, "i4,i4")],
    ids=["objects", "text", "records"],
)
def test_arrays_of_other_things_than_numbers_are_refused(tmp_path, monkeypatch, array):
    monkeypatch.chdir(tmp_path)
    Path("results.pkl").write_bytes(pickle.dumps([array]))
    with pytest.raises(PredictionsError, match=r"expected arrays of numbers|its pickle calls"):
        load_numbers(Path("results.pkl"))
    assert not Path("ran").exists()


TENSORS = [
    torch.arange(24.0).reshape(2, 3, 4),
    torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1)[1:, :, ::2],
    torch.zeros(0, 4, dtype=torch.float16),
    torch.tensor(3, dtype=torch.int16),
    torch.tensor([True, False]),
    torch.tensor([1, 2], dtype=torch.uint8).expand(3, 2),
    torch.ones(2, dtype=torch.float64),
]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_and_arrays_come_back_as_arrays(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    arrays = [
        np.arange(6, dtype=">i4").reshape(2, 3).T,
        np.array(3.5),
        np.float32(2.5),
        np.zeros((0, 2)),
        b"\xff\0",
        b"",
    ]
    path.write_bytes(pickle.dumps({"tensors": TENSORS, "arrays": arrays}, protocol))
    found = load_numbers(path)
    for expected, tensor in zip(TENSORS, found["tensors"], strict=True):
        np.testing.assert_array_equal(tensor, expected.numpy(), strict=True)
    for expected, array in zip(arrays, found["arrays"], strict=True):
        np.testing.assert_array_equal(array, expected)


def test_one_thing_at_many_places_is_found_once(tmp_path):
    shared = [np.arange(3)]
    for _ in range(60):
        shared = [shared, shared]
    shared.append(shared)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(shared))
    found = load_numbers(tmp_path / "a.pkl")
    for _ in range(60):
        assert found[0] is found[1]
        found = found[0]
    assert found[0].tolist() == [0, 1, 2]


def test_a_pickle_that_is_cut_off_or_lies_about_its_tensor_is_refused(tmp_path):
    path = tmp_path / "a.pkl"
    whole = pickle.dumps([torch.arange(4.0)], 2)
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(PredictionsError, match="no readable pickle"):
            load_numbers(path)
    whole = pickle.dumps([torch.arange(4.0)], 4)
    sound = struct.pack("<q", 4) + np.arange(4.0, dtype=np.float32).tobytes()
    assert sound in whole
    path.write_bytes(whole.replace(sound, struct.pack("<q", 5) + sound[8:]))
    with pytest.raises(PredictionsError, match="expected a tensor of 4 numbers"):
        load_numbers(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_spoilt_pickle_is_read_or_refused(tmp_path, protocol):
    rng = np.random.default_rng(protocol)
    whole = pickle.dumps([torch.arange(4.0), np.arange(6).reshape(2, 3), np.float32(1), {"a": [1, "b"]}], protocol)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(whole)
        spoilt[rng.integers(len(whole))] = rng.integers(256)
        (tmp_path / "a.pkl").write_bytes(spoilt)
        try:
            load_numbers(tmp_path / "a.pkl")
        except PredictionsError:
            refused += 1
    assert 50 < refused < 300


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(1, (4,), (1,)), (0, (5,), (1,)), (0, (2, 2), (3, 1)), (3, (2,), (-1,)), (-1, (1,), (1,))],
)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, offset, size, stride):
    class Lie:
        def __reduce__(self):
            build, (storage, *_) = torch.arange(4.0).__reduce_ex__(2)
            return build, (storage, offset, size, stride, False, collections.OrderedDict())

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Lie(), 2))
    with pytest.raises(PredictionsError, match="leaves its 4 numbers"):
        load_numbers(tmp_path / "a.pkl")
