"""A report of three tiny images whose every segment is known, and whose names would like to be code."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from antvisionps.fusion.routing import CLASS_AP_SCHEMA
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.predictions.fused_files import CANDIDATES, SEGMENTS, open_fused
from antvisionps.predictions.instances import InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter
from antvisionps.predictions.split_caches import SplitCaches
from antvisionps.report.image_data import ReportSources
from antvisionps.report.page import PhotoSizes, write_report
from antvisionps.report.provenance import provenance
from antvisionps.report.score_tables import CURVES_FILE, CURVES_SCHEMA
from tests.drawing import category_set, found

PATIENCE_MS = 30_000
"""For a busy machine: nothing is known by how long it takes."""
expect.set_options(timeout=PATIENCE_MS)

LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
HEIGHT, WIDTH = 24, 32
RING, CRATE, SKY, PROTO = 1, 2, 3, 4
NAMES = {
    RING: "<script>window.hacked = 1</script>",
    CRATE: "\"crate\" & 'co' \u2028 </script>",
    SKY: "空 <img src=x onerror=window.hacked=1>",
    PROTO: "__proto__",
}
FILE_NAMES = {12: "<img src=x onerror=window.hacked=1> é\"'.png", 13: "b.png", 40: "${window.hacked=1}.png"}
ENDS, SYSTEMS = ("e_ups", "lwl_htc", "hrnet"), ("e_ups", "fusion")
LEFT, RIGHT = (slice(2, 10), slice(2, 10)), (slice(2, 10), slice(20, 28))
LEFT_BY_ONE = (slice(2, 10), slice(3, 11))
LABELLED, BOTTOM = (slice(0, 18), slice(0, WIDTH)), (slice(18, HEIGHT), slice(0, WIDTH))


def drawn(*regions):
    """(H, W) of 0 with region after region painted over it, as 1, 2, 3 …"""
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    for number, region in enumerate(regions, start=1):
        ids[region] = number
    return ids


TRUTH = {
    12: (drawn(LABELLED, LEFT, RIGHT), {1: SKY, 2: RING, 3: CRATE}),
    13: (drawn(LABELLED, LEFT), {1: SKY, 2: RING}),
    40: (drawn(), {}),
}
"""Image → its map and the category of each segment; the lower rows are void."""

FUSED = {
    "e_ups": TRUTH | {13: (drawn(LABELLED), {1: SKY})},
    # The ring one column off, a crate called ring, and a class where the truth is void.
    "fusion": TRUTH | {12: (drawn(LABELLED, LEFT_BY_ONE, RIGHT, BOTTOM), {1: SKY, 2: RING, 3: RING, 4: PROTO})},
}
SCORE_AND_END = {2: (0.9, "e_ups"), 3: (0.8, "lwl_htc")}
"""Of the segments that are instances, in whichever image."""


def write_split(annotations, panoptic_dir, maps, categories):
    panoptic_dir.mkdir(parents=True)
    images = []
    for image_id, (ids, category_ids) in maps.items():
        name = f"{image_id}.png"
        write_segment_ids_png(panoptic_dir / name, ids)
        segments = measure_segments(ids, category_ids=category_ids)
        images.append(PanopticImage(image_id, FILE_NAMES[image_id], name, HEIGHT, WIDTH, segments))
    write_panoptic_json(annotations, categories=categories, images=images)


def write_fused(folder, maps, categories):
    write_split(folder / "panoptic.json", folder / "panoptic", maps, categories)
    segments, rejected = [], []
    for image_id, (ids, category_ids) in maps.items():
        for segment in measure_segments(ids, category_ids=category_ids):
            number, category_id = segment.segment_id, segment.category_id
            score, end = SCORE_AND_END[number] if category_id in (RING, CRATE) else (None, "e_ups+hrnet")
            segments.append((image_id, number, category_id, segment.area_px, score, end, None))
    # As in a union: of what one end alone found it has a part of the score, what both found is nobody's own.
    rejected.append((12, CRATE, 64, None, 0.2, "e_ups", "low_score", 1))
    rejected.append((12, RING, 64, None, 0.1, "e_ups+lwl_htc", "low_score", None))
    rejected.append((12, SKY, 448, 3, None, "e_ups+hrnet", "area", None))
    for rows, (name, schema) in ((segments, SEGMENTS), (rejected, CANDIDATES)):
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
        pq.write_table(pa.table(columns, schema=schema), folder / name)


INSTANCES = {
    "e_ups": [(RING, 0.9, drawn(LEFT_BY_ONE)), (CRATE, 0.4, drawn(RIGHT))],
    "lwl_htc": [(RING, 0.8, drawn(RIGHT))],
}
"""Of image 12; the others have none."""


def write_caches(predictions, categories):
    # Upper half sky, lower half the other one, and rings along the foot.
    planes = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    planes[0, 22:] = planes[1, :12] = planes[2, 12:22] = 255
    shape = {"height": HEIGHT, "width": WIDTH, "input_height": HEIGHT, "input_width": WIDTH, "stride": 1.0}
    ids = np.array([RING, SKY, PROTO], np.int32)
    for end in ENDS:
        header = CacheHeader(end, "val", "fingerprint", categories, "weights")
        folder = predictions / end / "val"
        if end in INSTANCES:
            with InstancesWriter(folder / INSTANCES_FILE, header) as writer:
                for image_id in TRUTH:
                    rows = INSTANCES[end] if image_id == 12 else ()
                    writer.write(found(*rows, hw=(HEIGHT, WIDTH), image_id=image_id))
        if end != "lwl_htc":
            with SemanticWriter(folder / SEMANTIC_FILE, header) as writer:
                for image_id in TRUTH:
                    writer.write(ImageSemantics(image_id, **shape, category_ids=ids, planes=planes))


LRP = "LRP,localisation,FP,FN,optimal_LRP,optimal_localisation,optimal_FP,optimal_FN"


def write_numbers(root):
    """Metrics, routing and curves: of the page's numbers only that it shows them is of interest."""
    quality = {"PQ": 63.4, "SQ": 80.0, "RQ": 71.9}
    groups = {"All": quality, "Things": quality, "Stuff": dict.fromkeys(quality)}
    per_class = ["category,system,PQ,SQ,RQ,tp,fp,fn"]
    quoted_names = {key: '"{}"'.format(name.replace('"', '""')) for key, name in NAMES.items()}
    for system, values in (("e_ups", {RING: 20, CRATE: 90, SKY: 50}), ("fusion", {RING: 70, CRATE: 10, SKY: 50})):
        for category_id, value in values.items():
            per_class.append(f"{quoted_names[category_id]},{system},{value}.5,80.0,70.0,3,2,1")
    lead = {"over": "lwl_htc", "AP": 0.125, "low": -0.05, "high": None}
    routes = [
        {"category_id": RING, "name": "x", "end": "e_ups", "reason": "better_ap", "lead": lead},
        {"category_id": CRATE, "name": "x", "end": "e_ups", "reason": "only_end", "lead": None},
    ]
    texts = {
        "metrics/panoptic.json": json.dumps(dict.fromkeys(SYSTEMS, groups)),
        "metrics/ignored.json": json.dumps({"ignored": "fuse.min_score=0.3 (<b>for a reason</b>)"}),
        "metrics/intervals.csv": "group,system,minus,PQ,low,high\nAll,e_ups,,63.4,60.0,66.0\n"
        "All,fusion,,63.4,61.0,65.0\nAll,fusion,e_ups,0.0,-2.5,1.5\nStuff,fusion,,,,\n",
        "metrics/per_class.csv": "\n".join(per_class) + "\n",
        "metrics/per_size.csv": "system,size,PQ,SQ,RQ,tp,fp,fn\nfusion,small,50.0,80.0,60.0,3,2,1\n",
        "metrics/error_budget.csv": "perfect,PQ,PQ_things,PQ_stuff\nas fused,63.4,40.0,\ntrue semantics,70.4,40.0,\n",
        "metrics/boundary_panoptic.json": json.dumps(dict.fromkeys(SYSTEMS, groups | {"All": quality | {"PQ": 52.1}})),
        "metrics/boundary_per_class.csv": "\n".join(per_class).replace(".5,80.0", ".25,80.0") + "\n",
        "metrics/boundary_per_size.csv": "system,size,PQ,SQ,RQ,tp,fp,fn\nfusion,small,41.5,80.0,60.0,3,2,1\n",
        "metrics/lrp.csv": f"group,system,{LRP}\nAll,fusion,35.5,12.5,2.0,10.0,34.5,12.0,1.0,11.0\n",
        "metrics/lrp_per_class.csv": f"category,system,{LRP},min_score\n"
        f"{quoted_names[RING]},fusion,30.0,12.5,3.0,10.0,30.0,12.0,1.0,11.0,\n"
        f"{quoted_names[CRATE]},fusion,40.0,12.5,3.0,10.0,38.0,12.0,1.0,11.0,0.625\n",
        "metrics/ends.json": json.dumps({"e_ups": {"AP": 41.5, "AP50": 60.5}, "lwl_htc": {"AP": 31.5, "AP50": None}}),
        "metrics/per_class_ap.csv": f"category,end,AP,AP50,n_gt\n{quoted_names[RING]},e_ups,51.5,70.5,2\n",
        "metrics/calibration_error.csv": "name,of,count,ECE\n"
        "e_ups,instances,2,35.0\nhrnet,semantics,0,\nfusion,segments,2,40.0\n",
        "metrics/reliability.csv": "name,of,low,high,count,confidence,right\n"
        "e_ups,instances,0.4000,0.4667,1,0.4,1.0\nfusion,segments,0.8000,0.8667,2,0.8,0.5\n",
        "metrics/slices.csv": "attribute,value,images,group,system,minus,PQ,low,high\n"
        "time,night,2,All,e_ups,,40.5,30.0,50.0\ntime,night,2,All,fusion,,45.5,35.0,55.0\n"
        "time,night,2,All,fusion,e_ups,5.0,-1.0,11.0\ntime,day,1,All,fusion,,,,\n",
        "routing/routing.json": json.dumps(
            {"mean_ap": {"e_ups": 0.3}, "better_overall": "e_ups", "categories": routes}
        ),
        "models/e_ups/base/curves/plots/metrics/loss.tsv": "step\tloss\n10\t3.5\n20\t1.25\n",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    columns = {
        "category_id": [RING, RING, CRATE],
        "end": ["e_ups", "lwl_htc", "e_ups"],
        "AP": [0.25, 0.125, float("nan")],
        "AP50": [0.5, 0.25, float("nan")],
        "n_gt": [9, 9, 0],
    }
    pq.write_table(pa.table(columns, schema=CLASS_AP_SCHEMA), root / "routing/class_ap.parquet")
    recalls = [place / 100 for place in range(101)]
    curves = [
        {"end": end, "category_id": category_id, "recall": recall, "precision": 1 - recall / 2}
        for end, category_id in (("e_ups", RING), ("e_ups", CRATE), ("lwl_htc", RING))
        for recall in recalls
    ]
    (root / "scores").mkdir()
    pq.write_table(pa.Table.from_pylist(curves, schema=CURVES_SCHEMA), root / "scores" / CURVES_FILE)


SLICES = {("time", "night"): np.array([0, 1]), ("time", "day"): np.array([2])}
CHOICE = {
    "system": SYSTEMS[-1],
    "taken": ENDS[:1],
    "paste_by": "panoptic_head",
    "choices": [
        {"ends": ENDS, "paste_by": "heuristic", "heldout_pq": 0.5, "lead": None, "standard_error": None},
        {"ends": ENDS[:1], "paste_by": "heuristic", "heldout_pq": 0.6, "lead": 0.1, "standard_error": 0.0625},
        {"ends": ENDS[1:2], "paste_by": "heuristic", "heldout_pq": None, "lead": None, "standard_error": None},
        {"ends": ENDS[:1], "paste_by": "panoptic_head", "heldout_pq": 0.625, "lead": 0.125, "standard_error": 0.0625},
    ],
}
"""That of method auto."""


class SmallReport:
    """The sources below `root`; `write(out)` writes their page."""

    def __init__(self, root: Path) -> None:
        self.root = root
        things = {key: NAMES[key] for key in (RING, CRATE)}
        self.categories = category_set(things, {key: NAMES[key] for key in (SKY, PROTO)})
        write_split(root / "val.json", root / "panoptic", TRUTH, self.categories)
        (root / "photos").mkdir()
        for image_id, name in FILE_NAMES.items():
            Image.new("RGB", (WIDTH, HEIGHT), (image_id, 90, 120)).save(root / "photos" / name)
        for system in SYSTEMS:
            write_fused(root / "fused" / system, FUSED[system], self.categories)
        write_caches(root / "predictions", self.categories)
        write_numbers(root)

    def write(self, out: Path) -> Path:
        root = self.root
        truth = read_panoptic(root / "val.json", images_dir=root / "photos", panoptic_dir=root / "panoptic")
        sources = ReportSources(
            truth=truth,
            fused={system: open_fused(root / "fused" / system, truth) for system in SYSTEMS},
            caches=SplitCaches(root / "predictions", "val", "fingerprint", truth),
            ends=ENDS,
        )
        numbers = {name: root / name for name in ("metrics", "scores", "routing", "models")}
        sizes = PhotoSizes(photo_long_side_px=20, thumbnail_long_side_px=10, photo_quality=90)
        known = provenance(sources.caches, ENDS)
        write_report(
            out,
            sources,
            **numbers,
            members={"e_ups": ["base"], "lwl_htc": ["r50"]},
            min_score=0.3,
            choice=CHOICE,
            sizes=sizes,
            slices=SLICES,
            provenance=known,
            workers=1,
        )
        return out


@pytest.fixture
def small_report(tmp_path) -> SmallReport:
    return SmallReport(tmp_path / "sources")


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory) -> Path:
    """The written page; tests only read it."""
    root = tmp_path_factory.mktemp("page")
    return SmallReport(root / "sources").write(root / "report")


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium here; `make chromium` installs Debian's")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


class Tab:
    """A tab that shows the page; `problems` collects what the console, errors and failed requests say."""

    def __init__(self, browser, base: str, **options) -> None:
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.base = base
        self.problems: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(error.message))
        self.page.on("requestfailed", self._note_failure)
        self.page.on("request", lambda request: self.requested.append(request.url))

    def _note_failure(self, request) -> None:
        # A picture that is still on its way when the test leaves the page is "aborted"; a missing one is "not found".
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"{request.url}: {request.failure}")

    def begin(self, base: str, viewport: dict[str, int]) -> None:
        """As if it were new."""
        self.base = base
        self.problems.clear()
        self.requested.clear()
        self.page.set_viewport_size(viewport)
        self.page.mouse.move(0, 0)

    def leave(self) -> None:
        """Without what a test may have set or stored."""
        self.page.evaluate("localStorage.clear()")
        self.page.emulate_media(color_scheme="null")
        self.page.goto("about:blank")

    def go(self, fragment: str, ready: str = "html[data-ready]") -> Page:
        self.page.goto("about:blank")  # another fragment alone would not load the page anew
        self.page.goto(f"{self.base}/index.html#{fragment}")
        self.page.wait_for_selector(ready)
        if fragment.startswith("image/"):
            self.page.wait_for_selector("#image .panels")
        return self.page


@pytest.fixture(scope="session")
def kept_tab(browser) -> Tab:
    """The first tab of every test that asks for no option: a new one costs a second."""
    return Tab(browser, "", viewport=LAPTOP)


@pytest.fixture
def opened(browser, page_folder, kept_tab):
    """Opens the page at a fragment; afterwards nothing may have gone wrong, and nothing of the data set have run."""
    tabs = []

    def open_at(fragment, *, base=None, ready="html[data-ready]", viewport=LAPTOP, **options):
        base = base or page_folder.as_uri()
        if tabs or options:
            tabs.append(Tab(browser, base, viewport=viewport, **options))
        else:
            kept_tab.begin(base, viewport)
            tabs.append(kept_tab)
        return tabs[-1].go(fragment, ready)

    open_at.tabs = tabs
    yield open_at
    for tab in tabs:
        assert tab.page.evaluate("typeof window.hacked") == "undefined"
        if tab is kept_tab:
            tab.leave()
        else:
            tab.context.close()
        assert tab.problems == []
