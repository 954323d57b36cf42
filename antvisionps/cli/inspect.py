"""`antvisionps inspect …`: what the stages left in data/, and what it says of one image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antvisionps.core.errors import CacheError

if TYPE_CHECKING:
    from antvisionps.inspection.predictions import CachedPredictions

FORMATS = {
    **dict.fromkeys(("score", "mean score", "mean probability", "confidence"), ".3f"),
    **dict.fromkeys(("share", "changed pixels"), ".1%"),
    "PQ B-A": "+.1f",
}
"""How the tables write numbers that have another than one digit behind the point."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    common = _common_options()
    image = argparse.ArgumentParser(add_help=False)
    image.add_argument("--image", required=True, metavar="ID", help="id of the image")
    image.add_argument("--png", type=Path, metavar="FILE", help="draw it into this file, too")
    cache = argparse.ArgumentParser(add_help=False)
    cache.add_argument("end", help="e_ups, say")
    cache.add_argument("split", help="val or heldout")

    description = "List what data/ holds, or show what is in it."
    inspect = commands.add_parser(
        "inspect", parents=[_common_options()], help="look at what data/ holds", description=description
    )
    inspect.set_defaults(run=_list, data=Path("data"), json=False)
    parts = inspect.add_subparsers(metavar="WHAT")

    instances = parts.add_parser("instances", parents=[common, cache, image], help="what an end found in an image")
    instances.add_argument("--category", action="append", metavar="NAME", help="only of this one; may be repeated")
    instances.add_argument("--min-score", type=float, default=0.0, metavar="SCORE")
    instances.add_argument("--limit", type=_positive, metavar="N", help="only the first N")
    instances.set_defaults(run=_instances)

    semantic = parts.add_parser("semantic", parents=[common, cache, image], help="an end's classes of an image")
    semantic.set_defaults(run=_semantic)

    fused = parts.add_parser("fused", parents=[common, image], help="segments of an image, and rejected candidates")
    fused.add_argument("system", help="fusion, or an end alone")
    fused.set_defaults(run=_fused)

    diff = parts.add_parser("diff", parents=[common], help="compare two caches or two fused systems, or two revisions")
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


def _common_options() -> argparse.ArgumentParser:
    """Options of `inspect` and of its parts. One of `inspect` holds unless the part that follows has its own: so
    defaults are suppressed, and the two have parsers of their own, as `set_defaults` changes what parsers share."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--data", type=Path, metavar="DIR", help="what the stages wrote (default: data)")
    common.add_argument("--json", action="store_true", help="print JSON, with whole numbers")
    return common


def _list(args: argparse.Namespace) -> None:
    from antvisionps.inspection.listing import list_data
    from antvisionps.report.tables import print_json, print_table

    listing, problems = list_data(args.data)
    if args.json:
        print_json({**listing, "problems": problems})
    else:
        for title, rows in listing.items():
            print_table(f"{args.data}: {title}", rows)
    if problems:
        raise CacheError("\n".join(problems))


def _instances(args: argparse.Namespace) -> None:
    from antvisionps.inspection.collection import image_id_of_text
    from antvisionps.inspection.pictures import draw_instances, write_picture
    from antvisionps.inspection.records import instance_records

    with _open_cache(args) as cache:
        image = cache[image_id_of_text(args.image, cache.image_ids)]
        found = image.instances
        wanted = _category_ids(args.category, cache)
        fitting = [one for one in found if one.category.category_id in wanted and one.score >= args.min_score]
        shown = fitting[: args.limit]
        title = f"{args.end} {args.split}, image {args.image}: {len(shown)} of {len(found)} instances, in pixels"
        _print(args, title, instance_records(shown))
        if args.png:
            write_picture(args.png, draw_instances(image.photo, shown))


def _semantic(args: argparse.Namespace) -> None:
    from antvisionps.inspection.collection import image_id_of_text
    from antvisionps.inspection.pictures import draw_semantic, write_picture
    from antvisionps.inspection.records import semantic_records

    with _open_cache(args) as cache:
        semantic = cache[image_id_of_text(args.image, cache.image_ids)].semantic
        title = f"{args.end} {args.split}, image {args.image}: classes, by the share of pixels they are likeliest at"
        _print(args, title, semantic_records(semantic))
        if args.png:
            write_picture(args.png, draw_semantic(semantic))


def _print(args: argparse.Namespace, title: str, records: list[dict[str, Any]]) -> None:
    from antvisionps.report.tables import print_json, print_table

    if args.json:
        print_json(records)
    else:
        print_table(title, records, FORMATS)


def _fused(args: argparse.Namespace) -> None:
    from antvisionps.inspection.collection import image_id_of_text
    from antvisionps.inspection.fused import open_fused_maps
    from antvisionps.inspection.pictures import write_picture
    from antvisionps.inspection.records import fused_records
    from antvisionps.report.tables import print_json, print_table

    maps = open_fused_maps(args.data / "fused" / args.system, prepared=args.data / "prepared")
    image = maps[image_id_of_text(args.image, maps.image_ids)]
    void_frac = float((image.segment_ids == 0).mean())
    tables = fused_records(image)
    if args.json:
        print_json({"void": void_frac, **tables})
    else:
        title = f"{args.system}, image {args.image}: {len(image.segments)} segments, {void_frac:.1%} of the pixels void"
        print_table(title, tables["segments"], FORMATS)
        print_table("rejected candidates, and why", tables["rejected"], FORMATS)
        if tables["quality"]:
            print_table("against the truth", tables["quality"], FORMATS)
    if args.png:
        write_picture(args.png, image.picture())


def _diff(args: argparse.Namespace) -> None:
    from antvisionps.inspection.differences import compare, fetched_sides
    from antvisionps.report.tables import print_json, print_table

    if (len(args.paths), len(args.rev)) not in ((2, 0), (1, 1), (1, 2)):
        raise CacheError("diff: expected two PATHs, or one PATH with --rev once or twice")
    with fetched_sides(args.paths, args.rev) as (a, b):
        classes, images = compare(a, b)
    if args.json:
        print_json({"a": a.name, "b": b.name, "classes": classes, "images": images})
        return
    changed = [row for row in images if row["changed"]]
    formats = FORMATS | {f"{name} {side}": FORMATS[name] for name in ("share", "mean score") for side in "AB"}
    print(f"A: {a.name}\nB: {b.name}\n")
    print_table(f"by category, over {len(images)} images", classes, formats)
    shown = [{name: value for name, value in row.items() if name != "changed"} for row in changed[: args.limit]]
    print_table(f"images: {len(changed)} of {len(images)} differ, {len(shown)} of them shown", shown, formats)


def _open_cache(args: argparse.Namespace) -> CachedPredictions:
    from antvisionps.inspection.predictions import open_predictions

    return open_predictions(args.data / "predictions" / args.end / args.split, prepared=args.data / "prepared")


def _category_ids(names: list[str] | None, cache: CachedPredictions) -> set[int]:
    """Of these things; of all without names."""
    from antvisionps.inspection.collection import name_choices

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
