"""The report page on 5,000 images of COCO's size: the stage's time, the page's size, how it loads, filters and scrolls.

`python -m benchmarks.report_page` makes the images (few differ; the rest repeat them), fuses and scores them untimed,
times the stage, and drives the page from disk in a headless Chromium (`make chromium`). Frames are those of the
browser's own clock while the list of images is scrolled from end to end; the slowest tenth is what people feel.
"""

import argparse
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Page, sync_playwright

from benchmarks.coco_like import CATEGORIES, HEIGHT, STRIDE_OF_END, WIDTH, write_coco_like
from benchmarks.coco_like_stages import add_options, apart, run_stage, score_options, write_params

SYSTEMS = (*STRIDE_OF_END, "fusion")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, images=5000, distinct=50)
    parser.add_argument("--work", type=Path, help="keep the generated files here, and use those of an earlier run")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not (root / "metrics" / "error_budget.csv").exists():
            write_scored(root, arguments.images, arguments.distinct, workers=arguments.workers)
        begin = time.perf_counter()
        report(root)
        print_row("stage report, s", time.perf_counter() - begin)
        print_sizes(root / "report", arguments.images)
        for name, value in drive(root / "report", arguments.images).items():
            print_row(name, value)


def write_scored(root: Path, images: int, distinct: int, *, workers: int) -> None:
    apart(write_sources, root, images, distinct)
    write_params(root, systems=SYSTEMS, workers=workers, bootstrap_samples=50)
    run_stage("fuse", root, "--out", root / "fused")
    run_stage("score", root, *score_options(root))


def report(root: Path) -> None:
    places = {name: name for name in ("models", "fused", "metrics", "scores")} | {"out": "report"}
    run_stage("report", root, *(word for name, of in places.items() for word in (f"--{name}", root / of)))


def print_row(name: str, value: float) -> None:
    print(f"{name:52s}{value:10.2f}", flush=True)


def write_sources(root: Path, images: int, distinct: int) -> None:
    """What benchmarks/coco_like.py makes, with photos of blurred noise and with APs."""
    write_coco_like(root, images=images, distinct=distinct)
    photos = root / "prepared" / "val"
    photos.mkdir()
    rng = np.random.default_rng(1)
    for index in range(images):
        path = photos / f"{index:012d}.jpg"
        if index >= distinct:
            path.hardlink_to(photos / f"{index % distinct:012d}.jpg")
            continue
        coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        fine = rng.normal(0, 4, (HEIGHT, WIDTH, 3))
        photo = np.clip(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) + fine, 0, 255)
        path.write_bytes(cv2.imencode(".jpg", photo.astype(np.uint8), (cv2.IMWRITE_JPEG_QUALITY, 90))[1].tobytes())
    rows = [(category.category_id, end) for end in STRIDE_OF_END for category in CATEGORIES.things]
    columns = {
        "category_id": pa.array([category_id for category_id, _ in rows], pa.int32()),
        "end": pa.array([end for _, end in rows]),
        "AP": pa.array(rng.random(len(rows))),
        "AP50": pa.array(rng.random(len(rows))),
        "n_gt": pa.array([10] * len(rows), pa.int64()),
    }
    pq.write_table(pa.table(columns), root / "routing" / "class_ap.parquet")
    (root / "models").mkdir()


def print_sizes(folder: Path, images: int) -> None:
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    fixed = [path for path in sizes if path.parent.name not in ("images", "thumbnails") and path.suffix != ".csv"]
    page = sum(sizes[path] for path in fixed)
    print_row("the page without images, kB", page / 1000)
    print_row("  of it the overview's data, kB", sizes[folder / "data" / "overview.js"] / 1000)
    for pattern, what in (
        ("images/*.js", "maps and segments"),
        ("images/*.jpg", "photo"),
        ("thumbnails/*.jpg", "thumbnail"),
    ):
        total = sum(path.stat().st_size for path in folder.glob(pattern))
        print_row(f"{what} of an image, kB", total / images / 1000)
    print_row("all of it, MB", sum(sizes.values()) / 1e6)


def drive(folder: Path, images: int) -> dict[str, float]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium; run `make chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(120_000)
        rows = {"opening the overview, ms": opened_in(page, folder, "overview", "#overview table")}
        rows["opening the images, ms"] = opened_in(page, folder, "images", "#images .card")
        rows["a filter, ms"] = changed_in(page, "error=class&category=3")
        rows["a search, ms"] = changed_in(page, "find=0042")
        rows["images of a confused pair, the first, ms"] = opened_in(
            page, folder, "images?confused=3-4", "#images #confused"
        )
        rows |= scrolled(page, folder, images)
        rows["opening an image, ms"] = opened_in(page, folder, "image/7", "#image .panels")
        rows["the next image, ms"] = pressed_in(page, "ArrowRight")
        rows["a layer off, ms"] = pressed_in(page, "2")
        rows["moving the pointer a step, ms"] = hovered_in(page)
        browser.close()
    return rows


def opened_in(page: Page, folder: Path, fragment: str, awaited: str) -> float:
    page.goto("about:blank")
    begin = time.perf_counter()
    page.goto(f"{folder.as_uri()}/index.html#{fragment}")
    page.wait_for_selector(awaited, state="attached")
    return 1000 * (time.perf_counter() - begin)


def changed_in(page: Page, query: str) -> float:
    """Until the next frame after the address changed."""
    return page.evaluate(
        """(query) => new Promise((resolve) => {
          const begin = performance.now();
          location.hash = `images?${query}`;
          const finish = () => resolve(performance.now() - begin);
          addEventListener("hashchange", () => requestAnimationFrame(() => setTimeout(finish)));
        })""",
        query,
    )


def scrolled(page: Page, folder: Path, images: int) -> dict[str, float]:
    """Down the whole list, 120 px a frame: at 60 frames a second a fast swipe. Cards are made on the way."""
    opened_in(page, folder, "images", "#images .card")
    frames = page.evaluate(
        """(images) => new Promise((resolve) => {
          const frames = [];
          let last = performance.now();
          const step = () => {
            const now = performance.now();
            frames.push(now - last);
            last = now;
            scrollBy({ top: 120, behavior: "instant" });
            const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
            if (atEnd && document.querySelectorAll(".card").length === images) resolve(frames);
            else requestAnimationFrame(step);
          };
          requestAnimationFrame(step);
        })""",
        images,
    )
    return {
        "scrolling: median frame, ms": float(np.median(frames)),
        "scrolling: slowest tenth from, ms": float(np.quantile(frames, 0.9)),
        "scrolling: slowest frame, ms": float(max(frames)),
    }


def pressed_in(page: Page, key: str) -> float:
    """From a key to the panels that it draws."""
    page.evaluate(
        """() => {
          window.drawn = new Promise((resolve) => {
            const begin = performance.now();
            const finish = () => resolve(performance.now() - begin);
            new MutationObserver(() => requestAnimationFrame(() => setTimeout(finish)))
              .observe(document.getElementById("image"), { childList: true });
          });
        }"""
    )
    page.keyboard.press(key)
    return page.evaluate("window.drawn")


def hovered_in(page: Page) -> float:
    """Mean over a path across the fused map, outlines drawn anew in every panel."""
    return page.evaluate(
        """() => {
          const view = document.querySelector('figure[data-layer="system"] .window');
          const box = view.getBoundingClientRect();
          const begin = performance.now();
          for (let step = 0; step < 50; step++) {
            const place = { clientX: box.left + (step / 50) * box.width, clientY: box.top + (step / 50) * box.height };
            view.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, pointerId: 1, ...place }));
          }
          return (performance.now() - begin) / 50;
        }"""
    )


if __name__ == "__main__":
    main()
