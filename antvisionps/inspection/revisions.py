"""Outputs of DVC as another revision has them: a commit, tag, branch or experiment, out of the local DVC cache."""

from pathlib import Path

from antvisionps.core.errors import AntVisionPSError, CacheError
from antvisionps.core.programs import dvc, experiment_ref, git


def fetch_revision(path: Path, *, rev: str, into: Path) -> Path:
    """A copy of `path`, a file or folder that DVC tracks, as it was in `rev`; written below `into`, returned.

    Raises CacheError outside of a repository of git and DVC, on an unknown revision, and where neither the local DVC
    cache nor a configured remote has the data.
    """
    root = next((place for place in path.resolve().parents if (place / ".dvc").is_dir()), None)
    if root is None:
        raise CacheError(f"{path}: not in a DVC repository, so it has no revisions; compare two paths instead")
    inside = path.resolve().relative_to(root)
    commit = commit_of(rev, root)
    out = into / inside.name
    try:
        dvc(into, "get", str(root), str(inside), "--rev", commit, "--out", str(out))
    except AntVisionPSError as error:
        raise CacheError(f"{inside} of revision {rev}: {_why_missing(str(error), inside, commit)}") from error
    return out


def commit_of(rev: str, root: Path) -> str:
    """The hash of the commit that a revision names."""
    try:
        name = experiment_ref(root, rev) or rev
    except AntVisionPSError as error:
        raise CacheError(f"{root}: not in a git repository, so it has no revisions ({error})") from error
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except AntVisionPSError as error:
        is_shallow = git(root, "rev-parse", "--is-shallow-repository") == "true"
        older = "this clone is shallow, and `git fetch --unshallow` gets older commits; " if is_shallow else ""
        raise CacheError(
            f"revision {rev}: no commit, tag, branch or experiment of that name here; {older}`git log --oneline --all` "
            "and `dvc exp list --all-commits` list them"
        ) from error


def _why_missing(said: str, inside: Path, commit: str) -> str:
    if str([str(inside)]) in said:  # DVC's KeyError
        return "that commit has no such output: its dvc.lock, if there is one, lists what its stages wrote"
    if "No storage files" in said or "No such file" in said or "missing" in said.lower():
        return (
            f"not in DVC's cache, as that commit was never run here; `git checkout {commit[:10]}` and `dvc repro` run "
            "it, or `dvc fetch` may get it from where it was run"
        )
    return said
