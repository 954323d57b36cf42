"""`antvisionps inspect …`: what the stages left in data/, and what it says of one image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antvisionps.core.errors import CacheError, DataError

if TYPE_CHECKING:
    import numpy as np

    from antvisionps.inspection.fused import FusedMap
    from antvisionps.inspection.predictions import CachedPredictions

VAL = "val"
"""The split that systems are fused on."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    # Suppressed defaults: an option of `inspect` itself holds unless the part that follows has its own.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--data", type=Path, metavar="DIR", help="what the stages wrote (default: data)")
    common.add_argument("--json", action="store_true", help="print JSON, with whole numbers")
    image = argparse.ArgumentParser(add_help=False)
    image.add_argument("--image", type=int, required=True, metavar="ID", help="id of the image")
    image.add_argument("--png", type=Path, metavar="FILE", help="draw it into this file, too")
    cache = argparse.ArgumentParser(add_help=False)
    cache.add_argument("end", help="e_ups, say")
    cache.add_argument("split", help="val or heldout")

    description = "List what data/ holds, or show what is in it."
    inspect = commands.add_parser("inspect", parents=[common], help="look at what data/ holds", description=description)
    inspect.set_defaults(run=_list, data=Path("data"), json=False)
    looks = inspect.add_subparsers(metavar="WHAT")

    instances = looks.add_parser("instances", parents=[common, cache, image], help="what an end found in an image")
    instances.add_argument("--category", action="append", metavar="NAME", help="only of this one; may be repeated")
    instances.add_argument("--min-score", type=float, default=0.0, metavar="SCORE")
    instances.add_argument("--limit", type=_positive, metavar="N", help="only the first N")
    instances.set_defaults(run=_instances)

    semantic = looks.add_parser("semantic", parents=[common, cache, image], help="an end's classes of an image")
    semantic.set_defaults(run=_semantic)

    fused = looks.add_parser("fused", parents=[common, image], help="segments of an image, and rejected candidates")
    fused.add_argument("system", help="fusion, or an end alone")
    fused.set_defaults(run=_fused)

    diff = looks.add_parser("diff", parents=[common], help="compare two caches or two fused systems, or two revisions")
    diff.add_argument(
        "paths", type=Path, nargs="+", metavar="PATH", help="data/predictions/END/SPLIT or data/fused/SYSTEM"
    )
    diff.add_argument(
        "--rev",
        action="append",
        default=[],
        metavar="REV",
        help="compare the one PATH as this revision of git and DVC has it with what is there now; "
        "given twice, with what the second revision has",
    )
    diff.add_argument("--limit", type=_positive, default=10, metavar="N", help="images to print (default: 10)")
    diff.set_defaults(run=_diff)


def _list(args: argparse.Namespace) -> None:
    from antvisionps.inspection.listing import list_data
    from antvisionps.inspection.tables import print_json, print_table

    listing, problems = list_data(args.data)
    if args.json:
        print_json({**listing, "problems": problems})
    else:
        for title, rows in listing.items():
            print_table(f"{args.data}: {title}", rows, {"MB": ".1f"})
    if problems:
        raise CacheError("\n".join(problems))


def _instances(args: argparse.Namespace) -> None:
    from antvisionps.inspection.tables import print_json, print_table

    with _open_cache(args) as cache:
        found = cache[args.image].instances
        wanted = _category_ids(args.category, cache)
        fitting = [one for one in found if one.category.category_id in wanted and one.score >= args.min_score]
        shown = fitting[: args.limit]
        rows = [
            {
                "rank": one.position,
                "category": one.category.name,
                "score": one.score,
                **dict(zip(("x", "y", "width", "height"), one.box_xywh, strict=True)),
                "area": one.area_px,
            }
            for one in shown
        ]
        if args.json:
            print_json(rows)
        else:
            title = f"{args.end} {args.split}, image {args.image}: {len(shown)} of {len(found)} instances, in pixels"
            print_table(title, rows, {"score": ".3f", **dict.fromkeys(("x", "y", "width", "height"), ".1f")})
        if args.png:
            from antvisionps.inspection.pictures import draw_instances, write_picture

            write_picture(args.png, draw_instances(_photo(args, args.split), shown))


def _semantic(args: argparse.Namespace) -> None:
    from antvisionps.inspection.tables import print_json, print_table

    with _open_cache(args) as cache:
        semantic = cache[args.image].semantic
        class_map, confidence = semantic.class_map, semantic.confidence
        rows: list[dict[str, Any]] = []
        for category, plane in zip(semantic.categories, semantic.probs, strict=True):
            won = class_map == cache.categories.class_index(category.category_id)
            rows.append(
                {
                    "category": category.name,
                    "kind": "thing" if category.is_thing else "stuff",
                    "share": float(won.mean()),
                    "mean probability": float(plane.mean()),
                    "confidence": float(confidence[won].mean()) if won.any() else None,
                }
            )
        rows.sort(key=lambda row: (-row["share"], -row["mean probability"]))
        if args.json:
            print_json(rows)
        else:
            title = (
                f"{args.end} {args.split}, image {args.image}: classes, by the share of pixels they are likeliest at"
            )
            print_table(title, rows, {"share": ".1%", "mean probability": ".3f", "confidence": ".3f"})
        if args.png:
            from antvisionps.inspection.pictures import draw_semantic, write_picture

            write_picture(args.png, draw_semantic(semantic))


def _fused(args: argparse.Namespace) -> None:
    from antvisionps.inspection import fused
    from antvisionps.inspection.tables import print_json, print_table

    image = fused.open(args.data / "fused" / args.system)[args.image]
    void_frac = float((image.segment_ids == 0).mean())
    tables = {"segments": _segment_rows(image), "rejected": _rejected_rows(image), "quality": _quality_rows(image)}
    if args.json:
        print_json({"void": void_frac, **tables})
    else:
        title = f"{args.system}, image {args.image}: {len(image.segments)} segments, {void_frac:.1%} of the pixels void"
        print_table(title, tables["segments"], {"score": ".3f"})
        print_table("rejected candidates, and why", tables["rejected"], {"score": ".3f"})
        if tables["quality"]:
            print_table("against the truth", tables["quality"], {"PQ": ".1f"})
    if args.png:
        from antvisionps.inspection.pictures import draw_fused, write_picture

        write_picture(args.png, draw_fused(_photo(args, VAL), image))


def _segment_rows(image: FusedMap) -> list[dict[str, Any]]:
    return [
        {
            "segment": one.segment_id,
            "category": image.maps.categories.by_id(one.category_id).name,
            "score": one.score,
            "area": one.area_px,
            "end": one.end,
        }
        for one in image.segments
    ]


def _rejected_rows(image: FusedMap) -> list[dict[str, Any]]:
    return [
        {
            "category": image.maps.categories.by_id(one.category_id).name,
            "score": one.score,
            "area": one.area_px,
            "free": one.free_px,
            "end": one.end,
            "reason": one.reason.value,
        }
        for one in image.rejected
    ]


def _quality_rows(image: FusedMap) -> list[dict[str, Any]]:
    """What stage score counted in this image; nothing where it has not run."""
    from antvisionps.inspection.image_scores import class_pq, metrics_of, read_image_counts

    counts = read_image_counts(metrics_of(image.maps.folder), system=image.maps.system)
    if counts is None or image.image_id not in counts:
        return []
    of_image = counts[image.image_id]
    pq_of = class_pq(counts, [image.image_id])
    columns = (of_image.category_ids, of_image.tp, of_image.fp, of_image.fn)
    return [
        {
            "category": image.maps.categories.by_id(category_id).name,
            "TP": tp,
            "FP": fp,
            "FN": fn,
            "PQ": pq_of.get(category_id),
        }
        for category_id, tp, fp, fn in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _diff(args: argparse.Namespace) -> None:
    from antvisionps.inspection.differences import compare, fetched_sides
    from antvisionps.inspection.tables import print_json, print_table

    if (len(args.paths), len(args.rev)) not in ((2, 0), (1, 1), (1, 2)):
        raise CacheError("diff: expected two PATHs, or one PATH with --rev once or twice")
    with fetched_sides(args.paths, args.rev) as (a, b):
        classes, images = compare(a, b)
    if args.json:
        print_json({"a": a.name, "b": b.name, "classes": classes, "images": images})
        return
    changed = [row for row in images if row["changed"]]
    formats = {"changed pixels": ".1%", "PQ B-A": "+.1f"}
    for side in "AB":
        formats |= {f"share {side}": ".1%", f"mean score {side}": ".3f", f"PQ {side}": ".1f"}
    print(f"A: {a.name}\nB: {b.name}\n")
    print_table(f"by category, over {len(images)} images", classes, formats)
    shown = [{name: value for name, value in row.items() if name != "changed"} for row in changed[: args.limit]]
    print_table(f"images: {len(changed)} of {len(images)} differ, {len(shown)} of them shown", shown, formats)


def _open_cache(args: argparse.Namespace) -> CachedPredictions:
    from antvisionps.inspection import predictions

    return predictions.open(args.data / "predictions" / args.end / args.split)


def _photo(args: argparse.Namespace, split: str) -> np.ndarray:
    from antvisionps.panoptic.splits import SPLITS, open_split

    if split not in SPLITS:
        raise DataError(f"split {split}: no photos; stage prepare makes {', '.join(SPLITS)}")
    dataset = open_split(args.data / "prepared", split)
    for image in dataset.images:
        if image.image_id == args.image:
            return dataset.load_photo(image)
    raise DataError(f"{dataset.annotations}: no image {args.image}, so no photo; the predictions are of other data")


def _category_ids(names: list[str] | None, cache: CachedPredictions) -> set[int]:
    """Of these things; of all without names."""
    from antvisionps.inspection.choices import name_choices

    things = {category.name: category.category_id for category in cache.categories.things}
    for name in names or []:
        if name not in things:
            raise CacheError(f"--category {name}: no thing of that name{name_choices(list(things))}")
    return {things[name] for name in names or things}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number
