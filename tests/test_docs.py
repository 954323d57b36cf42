"""What README and the docs link to and name is there."""

import re
from pathlib import Path

import pytest

import antvisionps

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "profiles/README.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

FENCE = re.compile(r"^ *```.*?^ *```", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./-])(?:(?:antvisionps|benchmarks|docs|profiles|stages|tests)/[\w./*-]*|[\w/]+\.py)")
MODULE = re.compile(r"\b(?:antvisionps|benchmarks)(?:\.(?!md\b)[a-z_]+)+")
ROOM = re.compile(r"`((?!data/)[a-z_]+(?:/[a-z_]+)*/)`")
NOT_IN_GIT = re.compile(r"[A-Z]{4}|^docs/tables|/mine\.yaml")
"""Placeholders such as profiles/NAME.yaml, and what a user makes."""


def anchors(page: Path) -> list[str]:
    """GitHub's of the headings: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@EVERY_PAGE
def test_every_link_leads_to_a_file_and_heading(page):
    links = [link for link in LINK.findall(FENCE.sub("", page.read_text())) if not link.startswith("http")]
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@EVERY_PAGE
def test_every_path_and_module_exists(page):
    text = page.read_text()
    paths = {path.rstrip(".") for path in PATH.findall(text) if not NOT_IN_GIT.search(path)}
    modules = {module for module in MODULE.findall(text) if not is_public_name(module)}
    paths |= {f"{module.replace('.', '/')}.py" for module in modules}
    assert [path for path in sorted(paths) if not exists(path)] == []


def test_every_room_of_the_tour_exists():
    rooms = ROOM.findall((ROOT / "docs/tour.md").read_text())
    assert "models/inference/" in rooms
    assert [room for room in rooms if not exists(room)] == []


def is_public_name(dotted: str) -> bool:
    """Such as antvisionps.panoptic_quality and antvisionps.convert.coco, which the package itself has."""
    found: object = antvisionps
    for name in dotted.split(".")[1:]:
        found = getattr(found, name, None)
    return dotted.split(".")[1] in antvisionps.__all__ and found is not None


def exists(path: str) -> bool:
    """From the root, or anywhere in the package: the tour says `pipeline/fuse.py`, and `semantic_kernels.py` for one
    beside it."""
    return any(ROOT.glob(path)) or any((ROOT / "antvisionps").rglob(path))
