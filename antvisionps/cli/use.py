"""`antvisionps use …`: makes a profile the params.yaml that the pipeline runs with."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import ParamsError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("use", help="make a profile the params.yaml that the pipeline runs with")
    parser.add_argument("profile", type=Path, metavar="profiles/NAME.yaml")
    parser.add_argument("--force", action="store_true", help="overwrite a params.yaml that you changed")
    parser.set_defaults(run=_use)


def _use(args: argparse.Namespace) -> None:
    from antvisionps.params.whole import load_params
    from antvisionps.preflight.images import missing_data

    use_profile(args.profile, force=args.force)
    missing = next(missing_data(load_params(args.profile).prepare), None)
    if missing is None:
        print(f"params.yaml is now {args.profile}; `dvc repro` runs it")
    else:
        print(f"params.yaml is now {args.profile}; `dvc repro` cannot run it yet: {missing.message}")
        print(f"first: {missing.remedy}")


def use_profile(profile: Path, *, force: bool) -> None:
    """Writes what the profile stands for to the project's params.yaml.

    Raises ParamsError on an invalid profile, and, unless `force`, when params.yaml holds changes of the user's own:
    that is, when neither this profile nor any of profiles/ stands for it.
    """
    from antvisionps.params.profiles import compose
    from antvisionps.params.whole import load_params

    load_params(profile)
    params_path = Path("params.yaml")
    kept = (profile, *sorted(Path("profiles").glob("[!.]*.yaml")))
    if not force and params_path.exists() and params_path.read_bytes() not in _composed(kept):
        own = next(name for n in itertools.count(1) if not Path(name := f"profiles/own_{n}.yaml").exists())
        raise ParamsError(
            f"{params_path} is not what a profile stands for: it, or its profile, was changed since. Keep it with "
            f"`cp params.yaml {own}`, or overwrite it with `antvisionps use {profile} --force`"
        )
    with atomic_file(params_path) as unfinished:
        unfinished.write_text(compose(profile), encoding="utf-8")


def _composed(profiles: Iterable[Path]) -> Iterator[bytes]:
    from antvisionps.params.profiles import compose

    for profile in profiles:
        with contextlib.suppress(ParamsError):  # of one that nobody asked for
            yield compose(profile).encode()
