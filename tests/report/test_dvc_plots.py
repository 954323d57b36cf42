"""`dvc plots show` where there is no network: its page says where the plots are."""

import shutil
import subprocess

from playwright.sync_api import expect

from tests.dvc_project import dvc
from tests.tiny_run import PROJECT


def test_the_plots_page_leads_to_the_report_without_a_network(browser, tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    shutil.copytree(PROJECT / ".dvc" / "plots", tmp_path / ".dvc" / "plots")
    for name in ("config", "plots_page.html"):
        shutil.copy(PROJECT / ".dvc" / name, tmp_path / ".dvc" / name)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "per_class.csv").write_text("category,system,PQ\nball,fusion,50.0\n")
    (tmp_path / "dvc.yaml").write_text("plots:\n- metrics/per_class.csv:\n    x: PQ\n    y: category\n")
    dvc(tmp_path, "plots", "show")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto((tmp_path / "dvc_plots" / "index.html").as_uri())
    expect(page.locator("#offline")).to_contain_text("report/index.html")
    expect(page.locator("#offline")).to_be_visible()
    page.add_init_script("window.vegaEmbed = () => {}")  # as if it had loaded
    page.reload()
    expect(page.locator("#offline")).to_be_hidden()
    context.close()


def test_what_is_written_beside_the_pipeline_is_not_of_git():
    for folder in ("dvc_plots", "comparison", "report"):
        subprocess.run(["git", "check-ignore", "--quiet", f"{folder}/index.html"], cwd=PROJECT, check=True)
