"""The report's tables: each row with its figures, and the changes of the params that make it an experiment.

`profiles/coco_paper.yaml` describes the report's networks, and a row of Table 1 is then the member of that name. Any
other profile has a network of its own, and a row changes that one; rows that ask for another backbone are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from antvisionps.params.whole import FUSION_SYSTEM, Params

R101_DCN, SE154, HTC = "ResNet-101-DCN", "SENet-154", "HTC"

BFP = {"balanced_pyramid_level": "2"}
NO_BFP = {"balanced_pyramid_level": "null"}
LSH = {"location_sensitive_header": "true"}
NO_LSH = {"location_sensitive_header": "false"}

UNCERTAINTY, NO_UNCERTAINTY = {"uncertainty": "task"}, {"uncertainty": "null"}
DC_HEAD, NO_DC_HEAD = {"deformable_semantic_head": "per_level"}, {"deformable_semantic_head": "null"}
HTC_LEVEL = {"semantic_level": "1"}
"""Where HTC's own branch fuses (Chen et al. 2019); the profile of the report's networks has the DC head's level."""


class Figures(NamedTuple):
    """PQ in percent; of things and stuff where they are told."""

    pq: float
    things: float | None = None
    stuff: float | None = None


@dataclass(frozen=True)
class Row:
    """One figure of a table.

    `member` is its network in a profile that describes the report's, `changes` what makes it of another profile's own
    network (None: nothing does), `beside_report` further changes beside the report's networks. `ensemble` stands for
    all members of the params, with their weights.
    """

    network: str
    variant: str
    system: str
    report: Figures | None
    member: str | None = None
    changes: Mapping[str, str] | None = field(default_factory=dict)
    beside_report: Mapping[str, str] = field(default_factory=dict)
    ensemble: bool = False


@dataclass(frozen=True)
class Table:
    number: int
    title: str
    ends: tuple[str, ...]
    rows: tuple[Row, ...]


TABLES = (
    Table(
        1,
        "E-UPS",
        ("e_ups",),
        (
            Row(R101_DCN, "vanilla", "e_ups", Figures(45.0), "r101_dcn", NO_BFP | NO_LSH),
            Row(R101_DCN, "+ BFP", "e_ups", Figures(45.7), "r101_dcn_bfp", BFP | NO_LSH),
            Row(R101_DCN, "+ LSH", "e_ups", Figures(45.8), "r101_dcn_lsh", NO_BFP | LSH),
            Row(R101_DCN, "+ BFP + LSH", "e_ups", Figures(46.8), "r101_dcn_bfp_lsh", BFP | LSH),
            Row(SE154, "vanilla", "e_ups", Figures(45.3), "se154", None),
            Row(SE154, "+ LSH", "e_ups", Figures(45.9), "se154_lsh", None),
            Row(SE154, "+ BFP", "e_ups", None, "se154_bfp", None),
            Row(SE154, "+ BFP + LSH", "e_ups", None, "se154_bfp_lsh", None),
            Row("all members", "ensemble", "e_ups", Figures(48.1), ensemble=True),
        ),
    ),
    Table(
        2,
        "LWL-HTC",
        ("lwl_htc",),
        (
            Row(HTC, "vanilla", "lwl_htc", Figures(45.1, 56.8, 28.3), None, NO_UNCERTAINTY | NO_DC_HEAD, HTC_LEVEL),
            Row(HTC, "+ uncertainty", "lwl_htc", Figures(46.8, 57.2, 31.0), None, UNCERTAINTY | NO_DC_HEAD, HTC_LEVEL),
            Row(HTC, "+ DC head", "lwl_htc", Figures(47.1, 57.9, 30.5), None, NO_UNCERTAINTY | DC_HEAD),
            Row(HTC, "+ uncertainty + DC head", "lwl_htc", Figures(47.5, 58.1, 31.6), None, UNCERTAINTY | DC_HEAD),
        ),
    ),
    Table(
        3,
        "two-level fusion",
        ("e_ups", "lwl_htc"),
        (
            Row("as in the params", "E-UPS", "e_ups", Figures(48.1)),
            Row("as in the params", "LWL-HTC", "lwl_htc", Figures(47.5)),
            Row("as in the params", "two-level fusion", FUSION_SYSTEM, Figures(50.1)),
        ),
    ),
)


@dataclass(frozen=True)
class Trial:
    """A row on some params: its network there, a short name, and the changes as `dvc exp run -S` takes them."""

    row: Row
    network: str
    slug: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """A row that some params cannot give, and why."""

    row: Row
    reason: str


def trials(table: Table, params: Params) -> tuple[list[Trial], list[LeftOut]]:
    """What these params can give of a table, and what they cannot. Rows with the same slug are one experiment."""
    missing = [LeftOut(row, _missing(row, params)) for row in table.rows]
    found = [_trial(table, left.row, params) for left in missing if not left.reason]
    return found, [left for left in missing if left.reason]


def has_report_networks(params: Params) -> bool:
    """Whether the networks of Table 1 are described there."""
    return any(row.member in params.train_e_ups.networks for row in TABLES[0].rows)


def _missing(row: Row, params: Params) -> str:
    networks = params.train_e_ups.networks
    if row.ensemble:
        return "" if len(params.train_e_ups.members) > 1 else "train_e_ups.members is one network"
    if row.member is None or row.member in networks:
        return ""
    if has_report_networks(params) or row.changes is None:
        return f"train_e_ups.networks describes no {row.member}"
    return ""


def _trial(table: Table, row: Row, params: Params) -> Trial:
    common = _only(table)
    if row.member is not None and row.member in params.train_e_ups.networks:
        changes = _only_member(row.member, params)
        return Trial(row, row.network, _slug(table, row.member), (*common, *changes))
    if table.ends == ("lwl_htc",):
        network = params.train_lwl_htc.network.backbone.name
        settings = {**(row.changes or {}), **(row.beside_report if has_report_networks(params) else {})}
        changes = tuple(f"train_lwl_htc.network.{key}={value}" for key, value in settings.items())
        return Trial(row, network, _slug(table, row.variant), (*common, *changes))
    if row.member is not None:
        own = params.train_e_ups.members[0]
        changes = tuple(f"train_e_ups.networks.{own}.{key}={value}" for key, value in (row.changes or {}).items())
        network = params.train_e_ups.networks[own].backbone.name
        return Trial(row, network, _slug(table, row.variant), (*common, *_only_member(own, params), *changes))
    slug = _slug(table, "" if len(table.ends) > 1 else row.variant)
    return Trial(row, row.network, slug, common)


def _only(table: Table) -> tuple[str, ...]:
    """Trains, predicts and scores the table's ends alone."""
    ends = _as_list(table.ends)
    systems = table.ends if len(table.ends) == 1 else (*table.ends, FUSION_SYSTEM)
    return (
        f"ends={ends}",
        f"predict.separate_ends={ends}",
        "predict.shared_backbone=[]",
        f"fuse.systems={_as_list(systems)}",
    )


def _only_member(member: str, params: Params) -> tuple[str, ...]:
    """E-UPS is this network; where it is the only one already, nothing changes."""
    if params.train_e_ups.members == (member,):
        return ()
    weights = "predict.member_weights.e_ups"
    return (f"train_e_ups.members=[{member}]", f"~{weights}", f"+{weights}={{{member}: 1.0}}")


def _as_list(names: Sequence[str]) -> str:
    return f"[{','.join(names)}]"


def _slug(table: Table, name: str) -> str:
    words = name.replace("+", " ").replace("_", " ").lower().split()
    return "-".join([f"table{table.number}", *words])
