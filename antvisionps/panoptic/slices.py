"""Slices of a split: its images by what a CSV says of them (night, camera, city …)."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from antvisionps.core.errors import DataError, first_line
from antvisionps.core.input_files import read_file
from antvisionps.panoptic.segments import PanopticImage

KEY = "file_name"

Slices = Mapping[tuple[str, str], np.ndarray]
"""(attribute, value) → positions of its images in the split, ascending."""


def read_slices(path: Path, images: Sequence[PanopticImage]) -> Slices:
    """From a CSV with a column `file_name` and one an attribute. It may list other images, too; an image with an empty
    cell is in no slice of that attribute.

    Raises DataError on a file without these columns, and on an image that is missing or there twice.
    """
    attributes, row_of_file = _read_rows(path)
    positions: dict[tuple[str, str], list[int]] = {}
    for position, image in enumerate(images):
        if image.file_name not in row_of_file:
            raise DataError(f"{path}: image {image.file_name} is missing; add a row for it")
        for attribute in attributes:
            if value := row_of_file[image.file_name][attribute]:
                positions.setdefault((attribute, value), []).append(position)
    return {key: np.array(positions[key]) for key in sorted(positions)}


def _read_rows(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The attributes, and file name → its row."""
    try:
        header, *rows = csv.reader(io.StringIO(read_file(path).decode("utf-8-sig"), newline=""), strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV of images ({first_line(error)}); write it again") from error
    attributes = [name for name in header if name != KEY]
    if KEY not in header or not attributes or len({*header}) < len(header):
        raise DataError(f"{path}: expected a column {KEY} and one for each attribute, got {header}")
    if "" in header:
        raise DataError(
            f"{path}: column {header.index('') + 1} has no name; give it one, or remove it (pandas writes its index "
            "there: df.to_csv(..., index=False) leaves it out)"
        )
    row_of_file: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"{path}: line {number}: expected {len(header)} cells, got {len(row)}; mend the line")
        cells = dict(zip(header, row, strict=True))
        if cells[KEY] in row_of_file:
            raise DataError(f"{path}: line {number}: image {cells[KEY]} appears twice; keep one")
        row_of_file[cells[KEY]] = cells
    return attributes, row_of_file
