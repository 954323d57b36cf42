"""Vega, Vega-Lite and Vega-Embed as one script, with which the page of `dvc plots show` needs no network.

python -m antvisionps.report.vega_script FILE
"""

import argparse
from pathlib import Path

from antvisionps.core.atomic import atomic_file

VEGA_LITE = "5.20"
"""Of the major version that the templates in .dvc/plots are written for."""

_GLOBALS = "window.vega = vega; window.vegaLite = vegaLite; window.vegaEmbed = vegaEmbed;"


def write_vega_script(path: Path) -> None:
    import vl_convert

    path.parent.mkdir(parents=True, exist_ok=True)
    bundle = vl_convert.javascript_bundle(_GLOBALS, vl_version=VEGA_LITE)
    with atomic_file(path) as unfinished:
        unfinished.write_text(f"(() => {{{bundle}}})();\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write Vega, Vega-Lite and Vega-Embed to one script.")
    parser.add_argument("path", type=Path)
    write_vega_script(parser.parse_args().path)
