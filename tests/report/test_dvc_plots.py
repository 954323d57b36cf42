"""`dvc plots show` without a network: Vega's script draws the plots, and where it is missing the page says so."""

import shutil
import subprocess

import pytest
from playwright.sync_api import expect

from antvisionps.report.vega_script import write_vega_script
from tests.dvc_project import dvc
from tests.tiny_run import PROJECT

FILES = {
    "per_class": ("category,system,PQ", "ball,fusion,50.0", "ring,fusion,40.0"),
    "coverage": ("group,system,coverage,PQ_mended", "All,fusion,100,50.0", "All,fusion,0,90.0", "Things,fusion,0,80"),
    "precision_recall": ("end,recall,precision", "e_ups,0.00,1.0", "e_ups,1.00,0.5"),
    "reliability": ("name,of,confidence,right", "e_ups,instances,0.5,0.4", "e_ups,semantics,0.9,0.8"),
    "networks": ("step,loss,end,member", "1,2.0,e_ups,base", "2,1.0,e_ups,base"),
    "confusion_share": ("prediction,truth,system,share", "ball,ball,fusion,0.9", "ring,ball,fusion,0.1"),
}
"""Template → a file that it draws."""
AXES = {
    "per_class": ("PQ", "category"),
    "coverage": ("coverage", "PQ_mended"),
    "precision_recall": ("recall", "precision"),
    "reliability": ("confidence", "right"),
    "networks": ("step", "loss"),
    "confusion_share": ("prediction", "truth"),
}


@pytest.fixture
def plots(tmp_path):
    """A project with a plot of every template, shown by DVC; the path of its page."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    shutil.copytree(PROJECT / ".dvc" / "plots", tmp_path / ".dvc" / "plots")
    for name in ("config", "plots_page.html"):
        shutil.copy(PROJECT / ".dvc" / name, tmp_path / ".dvc" / name)
    (tmp_path / "metrics").mkdir()
    lines = ["plots:"]
    for name, rows in FILES.items():
        (tmp_path / "metrics" / f"{name}.csv").write_text("\n".join([*rows, ""]))
        lines += [f"- metrics/{name}.csv: {{x: {AXES[name][0]}, y: {AXES[name][1]}, template: {name}}}"]
    (tmp_path / "dvc.yaml").write_text("\n".join([*lines, ""]))
    assert {path.stem for path in (PROJECT / ".dvc" / "plots").iterdir()} == {*FILES}
    dvc(tmp_path, "plots", "show")
    return tmp_path / "dvc_plots" / "index.html"


def test_every_template_is_drawn_without_a_network(browser, plots, tmp_path):
    write_vega_script(tmp_path / ".dvc" / "tmp" / "vega.js")
    context = browser.new_context(offline=True)
    page = context.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(plots.as_uri())
    drawn = page.locator("canvas, svg.marks")
    expect(drawn).to_have_count(len(FILES))
    for index in range(len(FILES)):
        box = drawn.nth(index).bounding_box()
        assert min(box["width"], box["height"]) > 30
    expect(page.locator("#offline")).to_be_hidden()
    assert problems == []
    context.close()


def test_without_the_script_the_page_says_how_to_get_it(browser, plots):
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(plots.as_uri())
    expect(page.locator("#offline")).to_contain_text("report/index.html")
    expect(page.locator("#offline")).to_be_visible()
    expect(page.locator("#offline")).to_contain_text("python -m antvisionps.report.vega_script .dvc/tmp/vega.js")
    context.close()


def test_what_is_written_beside_the_pipeline_is_not_of_git():
    for folder in ("dvc_plots", "comparison", "report"):
        subprocess.run(["git", "check-ignore", "--quiet", f"{folder}/index.html"], cwd=PROJECT, check=True)
