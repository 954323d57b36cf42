"""Stage `import_end@end-split`: predictions that another tool wrote for a split, into the cache."""

import argparse
from pathlib import Path

from antvisionps.core.stage import run_stage
from antvisionps.interchange.import_end import import_end
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.predictions.schema import CacheIdentity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--end", required=True, help="one of import_end.ends")
    parser.add_argument("--split", required=True, choices=("heldout", "val"))
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--files", type=Path, required=True, help="folder of the tool's files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache, replaced whole")
    arguments = parser.parse_args()
    dataset = open_split(arguments.prepared, arguments.split)
    identity = CacheIdentity(
        end=arguments.end,
        split=arguments.split,
        dataset_fingerprint=dataset_fingerprint(arguments.prepared),
        categories=dataset.categories,
    )
    import_end(arguments.files, arguments.out, dataset=dataset, identity=identity)


if __name__ == "__main__":
    run_stage(main)
