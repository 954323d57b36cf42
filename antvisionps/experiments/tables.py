"""What the tables compare: their rows, and the changes of the params that make a row an experiment.

`profiles/coco_paper.yaml` describes the report's networks, and a row of Table 1 is then the member of that name. Any
other profile has a network of its own, and a row changes that one; rows that ask for another backbone are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from antvisionps.core.errors import ParamsError
from antvisionps.params.whole import FUSION_SYSTEM, SEMANTIC_ENDS, Params

NO_BFP, BFP = "balanced_pyramid_level=null", "balanced_pyramid_level=2"
NO_LSH, LSH = "location_sensitive_header=false", "location_sensitive_header=true"
NO_UNCERTAINTY, UNCERTAINTY = "uncertainty=null", "uncertainty=task"
NO_DC_HEAD, DC_HEAD = "deformable_semantic_head=null", "deformable_semantic_head=per_level"
HTC_LEVEL = "semantic_level=1"
"""Where HTC's own branch fuses (Chen et al. 2019); the profile of the report's networks has the DC head's level."""

MODES: Mapping[str, tuple[str, ...]] = {
    "plain": ("fuse.method=heuristic", "fuse.calibrated=false"),
    "calibrated": ("fuse.method=heuristic", "fuse.calibrated=true"),
    "auto": ("fuse.method=auto",),
}
"""Of fusing: the heuristic with the params' thresholds, with those that stage calibrate fits, and method auto."""

SEED_STEP = 100
BOTH_ENDS = ("e_ups", "lwl_htc")


class Figures(NamedTuple):
    """PQ in percent; of things and stuff where they are known."""

    pq: float
    things: float | None = None
    stuff: float | None = None


@dataclass(frozen=True)
class Row:
    """A system of an experiment. Rows with the same label and changes are of the same experiment.

    `ends` alone are trained, predicted and scored. `changes` are further ones, as `dvc exp run -S` takes them.
    """

    name: str
    label: str
    ends: tuple[str, ...]
    changes: tuple[str, ...]
    system: str
    report: Figures | None = None


@dataclass(frozen=True)
class Table:
    title: str
    rows: Sequence[Row]
    left_out: Sequence[str] = ()
    """What the params cannot give, with the reason."""


class _EUpsRow(NamedTuple):
    """Of Table 1: `member` is its network in a profile that describes the report's, `changes` make it of another
    profile's own network (None: nothing does)."""

    network: str
    variant: str
    member: str
    changes: tuple[str, ...] | None
    report: Figures | None


_E_UPS_ROWS = (
    _EUpsRow("ResNet-101-DCN", "vanilla", "r101_dcn", (NO_BFP, NO_LSH), Figures(45.0)),
    _EUpsRow("ResNet-101-DCN", "+ BFP", "r101_dcn_bfp", (BFP, NO_LSH), Figures(45.7)),
    _EUpsRow("ResNet-101-DCN", "+ LSH", "r101_dcn_lsh", (NO_BFP, LSH), Figures(45.8)),
    _EUpsRow("ResNet-101-DCN", "+ BFP + LSH", "r101_dcn_bfp_lsh", (BFP, LSH), Figures(46.8)),
    _EUpsRow("SENet-154", "vanilla", "se154", None, Figures(45.3)),
    _EUpsRow("SENet-154", "+ LSH", "se154_lsh", None, Figures(45.9)),
    _EUpsRow("SENet-154", "+ BFP", "se154_bfp", None, None),
    _EUpsRow("SENet-154", "+ BFP + LSH", "se154_bfp_lsh", None, None),
)

_LWL_HTC_ROWS = (
    ("vanilla", (NO_UNCERTAINTY, NO_DC_HEAD), Figures(45.1, 56.8, 28.3)),
    ("+ uncertainty", (UNCERTAINTY, NO_DC_HEAD), Figures(46.8, 57.2, 31.0)),
    ("+ DC head", (NO_UNCERTAINTY, DC_HEAD), Figures(47.1, 57.9, 30.5)),
    ("+ uncertainty + DC head", (UNCERTAINTY, DC_HEAD), Figures(47.5, 58.1, 31.6)),
)


def table_1(params: Params) -> Table:
    """Raises ParamsError where a row needs a network of the profile's own, and it lists none; so does table_2."""
    members, networks = params.train_e_ups.members, params.train_e_ups.networks
    rows, left_out = [], []
    for row in _E_UPS_ROWS:
        if row.member in networks:
            name, label, changes = f"{row.network} {row.variant}", row.member, only_member(row.member, params)
        elif row.changes is not None and not _has_report_networks(params):
            member = _first_member("e_ups", members)
            name, label = f"{networks[member].backbone.name} {row.variant}", row.variant
            own = tuple(f"train_e_ups.networks.{member}.{change}" for change in row.changes)
            changes = (*only_member(member, params), *own)
        else:
            left_out.append(f"{row.network} {row.variant} (train_e_ups.networks describes no {row.member})")
            continue
        rows.append(Row(name, _label("table1", label), ("e_ups",), changes, "e_ups", row.report))
    if len(members) > 1:
        rows.append(Row("all members", _label("table1", "ensemble"), ("e_ups",), (), "e_ups", Figures(48.1)))
    else:
        left_out.append("ensemble (train_e_ups.members is one network)")
    return Table("E-UPS: balanced pyramid and location sensitive header", rows, left_out)


def table_2(params: Params) -> Table:
    member = _first_member("lwl_htc", params.train_lwl_htc.members)
    backbone = params.train_lwl_htc.networks[member].backbone.name
    rows = []
    for variant, changes, report in _LWL_HTC_ROWS:
        at_level = (HTC_LEVEL,) if _has_report_networks(params) and NO_DC_HEAD in changes else ()
        of_network = tuple(f"train_lwl_htc.networks.{member}.{change}" for change in (*changes, *at_level))
        rows.append(
            Row(f"{backbone} {variant}", _label("table2", variant), ("lwl_htc",), of_network, "lwl_htc", report)
        )
    return Table("LWL-HTC: learned uncertainty and DC head", rows)


def table_3(params: Params) -> Table:
    report = {"e_ups": Figures(48.1), "lwl_htc": Figures(47.5), FUSION_SYSTEM: Figures(50.1)}
    rows = [Row(system, "table3", BOTH_ENDS, (), system, figures) for system, figures in report.items()]
    return Table("Two-level fusion", rows)


def fusion_table(params: Params) -> Table:
    """Ends alone and fused, with what is imported, then with HRNet-ASPP's semantics too, by each of MODES, whatever
    fuse.methods says of these systems; the trainings are the same."""
    members = params.train_hrnet_aspp.members or [next(iter(params.train_hrnet_aspp.networks))]
    with_hrnet = (*BOTH_ENDS, "hrnet_aspp")
    imported = params.import_end.ends
    exceptions = [name for name in (*BOTH_ENDS, FUSION_SYSTEM) if name in params.fuse.methods]
    without_them = [f"~fuse.methods.{name}" for name in exceptions]
    rows = []
    for mode, of_mode in MODES.items():
        label, changes = f"fusion-{mode}", (*of_mode, *without_them)
        rows += [Row(f"{end}, {mode}", label, BOTH_ENDS, changes, end) for end in BOTH_ENDS]
        name = f"fusion of {', '.join((*BOTH_ENDS, *imported))}, {mode}"
        rows.append(Row(name, label, BOTH_ENDS, changes, FUSION_SYSTEM))
        changes = (*changes, f"train_hrnet_aspp.members={_as_list(members)}")
        name = f"fusion of {', '.join((*with_hrnet, *imported))}, {mode}"
        rows.append(Row(name, f"{label}-hrnet-aspp", with_hrnet, changes, FUSION_SYSTEM))
    return Table("Ends alone and fused", rows)


TABLES: Mapping[str, Callable[[Params], Table]] = {"1": table_1, "2": table_2, "3": table_3, "fusion": fusion_table}
"""The report's tables, and what fusion gains in more detail."""


def changes_of(row: Row, params: Params, *, seed: int | None) -> tuple[str, ...]:
    """All changes that make the row an experiment, as `dvc exp run -S` takes them; None is the params' own seeds."""
    systems = row.ends
    if len(row.ends) > 1:
        systems = (*(end for end in row.ends if end not in SEMANTIC_ENDS), FUSION_SYSTEM)
    only_ends = (
        f"ends={_as_list(row.ends)}",
        f"predict.separate_ends={_as_list(row.ends)}",
        "predict.shared_backbone=[]",
        f"fuse.systems={_as_list(systems)}",
    )
    return (*only_ends, *row.changes, *_seed_changes(row.ends, params, seed))


def _seed_changes(ends: Sequence[str], params: Params, seed: int | None) -> tuple[str, ...]:
    """One training has the seed itself. Several have it, times SEED_STEP, added to their own: no two have the same."""
    if seed is None:
        return ()
    if len(ends) == 1:
        return (f"train_{ends[0]}.seed={seed}",)
    own = {end: getattr(params, f"train_{end}").seed for end in ends}
    return tuple(f"train_{end}.seed={own[end] + SEED_STEP * seed}" for end in ends)


def only_member(member: str, params: Params) -> tuple[str, ...]:
    """Changes by which E-UPS is this network alone; where it is already, nothing changes."""
    if params.train_e_ups.members == (member,):
        return ()
    members = f"train_e_ups.members=[{member}]"
    if "e_ups" not in params.predict.member_weights:
        return (members,)
    weights = "predict.member_weights.e_ups"
    return (members, f"~{weights}", f"+{weights}={{{member}: 1.0}}")


def _first_member(end: str, members: Sequence[str]) -> str:
    if not members:
        raise ParamsError(f"train_{end}.members is empty; list there the network that the table changes, as [base]")
    return members[0]


def _has_report_networks(params: Params) -> bool:
    """Whether networks of Table 1 are described there."""
    return any(row.member in params.train_e_ups.networks for row in _E_UPS_ROWS)


def _as_list(names: Sequence[str]) -> str:
    return f"[{','.join(names)}]"


def _label(table: str, name: str) -> str:
    return "-".join([table, *name.replace("+", " ").replace("_", " ").lower().split()])
