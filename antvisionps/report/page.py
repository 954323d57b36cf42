"""The report page: a folder that a browser opens from disk or from any web server, without a network.

index.html and what it loads are fixed files (the folder `site` beside this module); nothing of a data set is ever
written into HTML. Data goes into scripts of one statement each, as base64 of deflated JSON, so no name in it can be
read as code; browsers refuse to fetch a file from a page on disk, but load scripts from there. File layout:

    index.html *.css *.js     the fixed files
    data/overview.js          all of the overview, and the tally of every image
    data/pairs.js             which categories are taken for which in every image, loaded when one is looked for
    data/wrong.js             what is wrong in every image by its confidence, loaded when a bin is looked for
    images/<image id>.js      maps and segments of an image, loaded when it is shown
    images/<image id>.jpg     its photo
    thumbnails/<image id>.jpg the same, small
    confusion.csv, curves.csv the overview's confusion of categories and training curves, for DVC's plots
"""

import base64
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.copying import copy_files
from antvisionps.evaluation.panoptic_quality import SIZES
from antvisionps.evaluation.segment_outcomes import OUTCOMES
from antvisionps.panoptic.slices import Slices
from antvisionps.parallel.images import Workers, map_images
from antvisionps.predictions.fused_files import has_doubt
from antvisionps.report.confusion import Confusion, write_confusion_csv
from antvisionps.report.image_data import UNEXPLAINED, ImageData, PageFiles, ReportSources, photo_jpeg
from antvisionps.report.overview_data import (
    describe_categories,
    describe_slices,
    read_curves,
    read_page_routing,
    write_curves_csv,
)
from antvisionps.report.reliability import WrongByBin
from antvisionps.report.score_tables import read_ignored, read_metrics

Json = dict[str, Any]

ZLIB_LEVEL = 6

FOLDERS = ("data", "images", "thumbnails")
CONFUSION, CURVES = "confusion.csv", "curves.csv"


@dataclass(frozen=True)
class PhotoSizes:
    """Long sides in pixels, and the quality of the JPEGs from 1 to 100."""

    photo_long_side_px: int
    thumbnail_long_side_px: int
    photo_quality: int


def write_report(
    out: Path,
    sources: ReportSources,
    *,
    metrics: Path,
    scores: Path,
    routing: Path,
    models: Path,
    members: Mapping[str, Sequence[str]],
    min_score: float,
    choice: Json | None,
    sizes: PhotoSizes,
    slices: Slices,
    provenance: Json,
    workers: Workers,
) -> None:
    """Writes the page of a run; `min_score` is what the instances' score slider begins with: the last system's own,
    shown first. `members` (end → names) are the networks whose curves it shows. `choice` is what
    `fusion.voting_document` says of its ends, None unless its method is auto. `slices` are those whose PQ stage score
    measured.

    Raises DataError or CacheError that names the file when something that the page shows is missing or broken.
    """
    categories = sources.truth.categories
    overview = {
        "min_score": min_score,
        "metrics": read_metrics(
            metrics, scores=scores, systems=list(sources.fused), ends=sources.ends, categories=categories
        ),
        "ignored": read_ignored(metrics),
        "choice": choice,
        "slices": describe_slices(slices, images=len(sources.truth.images)),
        "routing": read_page_routing(routing, categories=categories, ends=sources.ends),
        "curves": read_curves(models, members),
        "provenance": provenance,
    }
    write_page(out, sources, overview, sizes=sizes, workers=workers)


def write_page(out: Path, sources: ReportSources, overview: Json, *, sizes: PhotoSizes, workers: Workers) -> None:
    """Writes a page of these sources, whose overview also shows what is given."""
    categories = sources.truth.categories
    overview = overview | {
        "categories": describe_categories(categories),
        "systems": list(sources.fused),
        "mapped": list(sources.mapped),
        "ends": list(sources.ends),
        "kinds": sources.kinds,
        "doubt": any(map(has_doubt, sources.mapped.values())),
        "sizes": [[name, low] for name, (low, _) in SIZES.items()],
        "outcomes": [*OUTCOMES, UNEXPLAINED],
    }
    with atomic_folder(out) as folder:
        with as_file(files("antvisionps.report") / "site") as site:
            copy_files(site, folder)
        for name in FOLDERS:
            (folder / name).mkdir()
        open_work = partial(_open_writing, folder, sources, sizes)
        images = []
        confusion = Confusion(sources.fused, categories)
        wrong = WrongByBin()
        items = range(len(sources.truth.images))
        for index, data in enumerate(map_images(open_work, items, workers=workers, description="report")):
            image = sources.truth.images[index]
            name = image.file_name if image.given_id is None else f"{image.source_id} ({image.file_name})"
            tallies = [packed_tally(rows) for rows in data.tally.values()]
            given = [] if image.given_id is None else [str(image.given_id)]
            images.append([image.image_id, name, image.width, image.height, tallies, *given])
            confusion.add(data.confused)
            wrong.add(data.wrong)
        write_script(folder / "data" / "overview.js", overview | {"images": images} | confusion.totals())
        write_script(folder / "data" / "pairs.js", confusion.pairs())
        write_script(folder / "data" / "wrong.js", wrong.document())
        write_confusion_csv(folder / CONFUSION, confusion.pixels(), categories)
        write_curves_csv(folder / CURVES, overview.get("curves", []))


def names_of_page() -> list[str]:
    """Of all files and folders that lie directly in a page's folder."""
    return [*(path.name for path in (files("antvisionps.report") / "site").iterdir()), *FOLDERS, CONFUSION, CURVES]


def _open_writing(folder: Path, sources: ReportSources, sizes: PhotoSizes) -> Callable[[int], ImageData]:
    assemble = PageFiles(sources).assemble

    def write(index: int) -> ImageData:
        image = sources.truth.images[index]
        data = assemble(index)
        write_script(folder / "images" / f"{image.image_id}.js", data.page)
        photo = sources.truth.load_photo(image)
        long_sides_px = {"images": sizes.photo_long_side_px, "thumbnails": sizes.thumbnail_long_side_px}
        for place, side_px in long_sides_px.items():
            jpeg = photo_jpeg(photo, long_side_px=side_px, quality=sizes.photo_quality)
            (folder / place / f"{image.image_id}.jpg").write_bytes(jpeg)
        return ImageData({}, data.tally, data.confused, data.wrong)

    return write


def packed_tally(rows: Sequence[Sequence[float]]) -> list[float]:
    """[code, number, sum of IoUs] of each row of `tally_outcomes` behind each other, which browsers parse fast.

    The bits of a code are, from the highest, the class index, 3 of 1 + the size, 1 of the side, 4 of the outcome.
    """
    flat: list[float] = []
    for class_index, size, side, outcome, number, iou_sum in rows:
        code = int(class_index) << 8 | int(size) + 1 << 5 | int(side) << 4 | int(outcome)
        flat += [code, number, iou_sum or 0]
    return flat


def write_script(path: Path, document: Any) -> None:
    """A script that hands the document to the page."""
    compact = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    packed = base64.b64encode(zlib.compress(compact, ZLIB_LEVEL)).decode()
    path.write_text(f'antvisionps.receive("{packed}");\n', encoding="ascii")
