"""What is no npz of probabilities is told in one line, before memory is taken for it."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.label_table import read_label_table
from antvisionps.interchange.probability_files import read_probabilities

SKY, SAND = 2, 40


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def announcing(shape, descr="<f4"):
    return header_of(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}")


def header_of(text):
    """A header of format 1.0 with this dictionary, and a few bytes behind it."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0" * 64


SOUND = {
    "probs": npy(np.full((2, 16, 24), 0.5, np.float32)),
    "category_ids": npy(np.array([SKY, SAND])),
    "input_hw": npy(np.array([64, 96])),
    "stride": npy(np.float32(4)),
}


def write_npz(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)


FAULTS = {
    "header of 121 GiB": (
        {"probs": announcing((133, 15600, 15600))},
        r"announces 1294\d+ bytes, float32 \(133, 15600, 15600\), and there are 64",
    ),
    "header beyond all numbers": ({"probs": announcing((2**40, 2**40))}, "announces"),
    "negative sides": ({"probs": announcing((-2, -3))}, "got none"),
    "header that is no dictionary": ({"probs": header_of("[1, 2")}, "got none"),
    "header deeply nested": ({"probs": header_of("(" * 9000)}, "got none"),
    "header too long": ({"probs": header_of("{" + " " * 20000 + "}")}, "got none"),
    "header of an unknown type": ({"probs": announcing((1,), "bogus")}, "got none"),
    "format 9.9": ({"probs": b"\x93NUMPY\x09\x09" + SOUND["probs"][8:]}, "format 1.0 or 2.0, got 9.9"),
    "objects": ({"probs": npy(np.full((2, 16, 24), None), allow_pickle=True)}, "Python objects"),
    "objects as ids": ({"category_ids": npy(np.array([SKY, "sand"], object), allow_pickle=True)}, "Python objects"),
    "pickle": ({"probs": pickle.dumps(np.zeros(3))}, "magic string"),
    "truncated array": ({"probs": SOUND["probs"][:-8]}, "announces 3072 bytes, .* are 3064"),
    "empty array": ({"probs": b""}, "got none"),
    "no probs": ({"probs": None}, "it has no probs"),
    "no category_ids": ({"category_ids": None}, "it has no category_ids"),
    "category_ids as text": ({"category_ids": npy(np.array(["sky", "sand"]))}, "expected integers, got <U4"),
    "category_ids of fractions": ({"category_ids": npy(np.array([2.5, 40]))}, "expected whole numbers, got 2.5"),
    "category_ids of two axes": (
        {"category_ids": npy(np.array([[SKY], [SAND]]))},
        r"category_ids \(C,\), got .* \(2, 1\)",
    ),
    "probs of two axes": ({"probs": npy(np.zeros((16, 24), np.float32))}, "expected probs"),
    "probs of no axis": ({"probs": npy(np.float32(1))}, "expected probs"),
    "flags": ({"probs": npy(np.zeros((2, 16, 24), bool))}, "float type or uint8, got bool"),
    "complex numbers": ({"probs": npy(np.zeros((2, 16, 24), complex))}, "float type or uint8, got complex128"),
    "dates": ({"probs": npy(np.zeros((2, 16, 24), "M8[s]"))}, "float type or uint8, got datetime64"),
    "text": ({"probs": npy(np.full((2, 16, 24), "0.5"))}, "float type or uint8, got <U3"),
    "records": ({"probs": npy(np.zeros((2, 16, 24), [("a", "f4")]))}, "float type or uint8"),
    "infinity": ({"probs": npy(np.full((2, 16, 24), np.inf))}, "from 0 to 1, got 0.0 to inf"),
    "minus infinity": ({"probs": npy(np.full((2, 16, 24), -np.inf))}, "got -inf"),
    "negative": ({"probs": npy(np.full((2, 16, 24), -0.1))}, "got -0.1"),
    "nothing probable": ({"probs": npy(np.zeros((2, 16, 24)))}, "of which one is above 0, got at most 0.0"),
    **{
        f"input_hw {value}": ({"input_hw": npy(np.array(value))}, "input_hw|whole numbers|integers")
        for value in (
            [np.inf, 96],
            [np.nan, 96],
            [-64, -96],
            [0, 96],
            [64.5, 96],
            [64],
            [64, 96, 3],
            64,
            [[64, 96]],
            [2**31, 96],
            [2**62, 96],
            [1e300, 96],
            ["64", "96"],
            [True, True],
            [],
        )
    },
    **{
        f"stride {value}": ({"stride": npy(np.array(value))}, "expected a stride")
        for value in (np.inf, np.nan, 0.0, -4.0, 3e38, 1e300, [4.0], [4.0, 4.0], "4", True)
    },
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize(("changes", "match"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_file_of_probabilities_is_refused(files, dataset, refuse, changes, match, compression):
    path = files / "semantic" / f"{Path(dataset.images[1].file_name).stem}.npz"
    write_npz(path, SOUND | changes, compression)
    refuse(files, match)


def test_a_member_whose_zip_lies_about_its_size_is_refused(files, dataset, refuse):
    """121 GiB in the zip's directory too: deflate cannot have shortened them to so few bytes."""
    path = files / "semantic" / f"{Path(dataset.images[1].file_name).stem}.npz"
    probs = announcing((133, 100, 100))
    write_npz(path, SOUND | {"probs": probs})
    size = len(probs).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (2**31).to_bytes(4, "little")))
    refuse(files, "announces 5320000 bytes")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, SOUND["probs"], pickle.dumps({})])
def test_what_is_no_zip_is_refused(files, dataset, refuse, content):
    path = files / "semantic" / f"{Path(dataset.images[1].file_name).stem}.npz"
    path.write_bytes(content)
    refuse(files, r"\.npz: expected an npz of probs")


def test_a_zip_that_is_cut_or_flipped_anywhere_is_refused_or_read(files, dataset, refuse):
    """Without a change of values: a zip has a checksum."""
    path = files / "semantic" / f"{Path(dataset.images[1].file_name).stem}.npz"
    write_npz(path, SOUND | {"probs": npy(np.full((2, 16, 24), 0.25, np.float32))})
    whole = path.read_bytes()
    for cut in range(0, len(whole), 61):
        path.write_bytes(whole[:cut])
        refuse(files, r"\.npz: ")
    rng = np.random.default_rng(0)
    labels = read_label_table(files / "labels.json", dataset.categories)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(whole)
        spoilt[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(spoilt)
        try:
            planes = read_probabilities(path, dataset.images[1], labels).planes
        except PredictionsError:
            refused += 1
        else:
            assert (planes == 64).all()
    assert refused > 200


@pytest.mark.parametrize("input_hw", [np.array([64, 96], np.uint16), np.array([64.0, 96.0]), np.array([64, 96], ">i8")])
def test_whole_numbers_of_any_type_are_taken(files, dataset, input_hw):
    from antvisionps.interchange.label_table import read_label_table
    from antvisionps.interchange.probability_files import read_probabilities

    path = files / "a.npz"
    arrays = {"category_ids": np.array([SKY, SAND], float), "input_hw": input_hw, "stride": np.array(4)}
    np.savez_compressed(path, probs=np.full((2, 16, 24), 0.25, ">f8"), **arrays)
    labels = read_label_table(files / "labels.json", dataset.categories)
    semantics = read_probabilities(path, dataset.images[0], labels)
    assert (semantics.input_height, semantics.input_width, semantics.stride) == (64, 96, 4.0)
    assert (semantics.planes == 64).all()


@pytest.mark.parametrize("name", ["input_hw", "stride"])
def test_an_optional_array_whose_name_is_damaged_is_not_absent(dataset, tmp_path, name):
    path = tmp_path / "damaged.npz"
    write_npz(path, SOUND)
    content = path.read_bytes()
    place = content.rindex(f"{name}.npy".encode())  # in the directory, behind all arrays
    path.write_bytes(content[:place] + bytes(4) + content[place + 4 :])
    with pytest.raises(PredictionsError, match="expected an npz of probs"):
        read_probabilities(path, dataset.images[0], read_label_table(tmp_path / "none", dataset.categories))
