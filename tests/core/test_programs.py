"""What git is asked for."""

import os
import subprocess

from antvisionps.core.programs import experiment_ref


def test_of_experiments_of_one_name_the_newest_is_meant(tmp_path):
    def git(*arguments, year=2020):
        environment = os.environ | {"GIT_COMMITTER_DATE": f"{year}-01-01T00:00:00Z"}
        subprocess.run(["git", *arguments], cwd=tmp_path, env=environment, check=True)

    git("init", "--quiet")
    for year, base in ((2020, "bb"), (2022, "cc"), (2021, "aa")):
        git("commit", "--quiet", "--allow-empty", "--message", str(year), year=year)
        git("update-ref", f"refs/exps/{base}/{38 * '0'}/try", "HEAD")
    assert experiment_ref(tmp_path, "try") == f"refs/exps/cc/{38 * '0'}/try"
    assert experiment_ref(tmp_path, "other") is None
