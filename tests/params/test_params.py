import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antvisionps.core.errors import ParamsError
from antvisionps.params.profiles import read_params
from antvisionps.params.training import load_members
from antvisionps.params.whole import load_params

PROJECT = Path(__file__).parents[2]
BUILT_IN = PROJECT / "profiles" / "built_in.yaml"
PROFILES = sorted((PROJECT / "profiles").glob("*.yaml"))


@pytest.fixture
def edited(tmp_path) -> Callable[[str, Any], Path]:
    """Writes the built-in params.yaml with one value set, `section.key` by `section.key`; `...` deletes the key."""

    def edit(place: str, value: Any) -> Path:
        document = read_params(BUILT_IN)
        *sections, key = place.split(".")
        node = document
        for section in sections:
            node = node[section]
        if value is ...:
            del node[key]
        else:
            node[key] = value
        path = tmp_path / "params.yaml"
        YAML(typ="safe").dump(document, path)
        return path

    return edit


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("fuse.max_overlap", 0.5, r"fuse\.max_overlap: unknown key"),
        ("fuze", {}, r"fuze: unknown key"),
        ("fuse.max_overlap_frac", 1.5, r"fuse\.max_overlap_frac: .*less than or equal to 1, got 1\.5"),
        ("fuse.min_stuff_area_px", -1, r"fuse\.min_stuff_area_px: .*greater than or equal to 0, got -1"),
        ("prepare.seed", 2**31, r"prepare\.seed: .*less than"),
        ("fuse.min_score", "high", r"fuse\.min_score: .*number, got 'high'"),
        ("fuse.min_score", None, r"fuse\.min_score: .*number, got None"),
        ("fuse.min_stuff_area_px", 64.5, r"fuse\.min_stuff_area_px: .*integer, got 64\.5"),
        ("prepare.heldout_images", "40", r"prepare\.heldout_images: .*integer, got '40'"),
        ("fuse.systems", "fusion", r"fuse\.systems: .*tuple, got 'fusion'"),
        ("runtime.processes", 8, r"runtime: processes is 8, but launcher none starts one; set launcher to pytorch"),
        ("runtime.launcher", "mpi", r"runtime\.launcher: .*'none', 'pytorch' or 'slurm', got 'mpi'"),
        ("fuse.min_score", ..., r"fuse\.min_score: Field required"),
        ("score", ..., r"score: Field required"),
        ("runtime.workers", 10**9, r"runtime\.workers: .*less than or equal to 4096, got 1000000000"),
        ("runtime.cpu_threads", 10**9, r"runtime\.cpu_threads: .*less than or equal to 4096"),
        ("runtime.loader_workers", 2**63, r"runtime\.loader_workers: .*less than or equal to 4096"),
        ("score.bootstrap_samples", 10**9, r"score\.bootstrap_samples: .*less than or equal to 100000"),
        ("report.photo_long_side_px", 10**9, r"report\.photo_long_side_px: .*less than or equal to 65536"),
        ("prepare.scenes.train_images", 10**12, r"scenes\.train_images: .*less than or equal to 1000000"),
        ("predict.short_sides_px", [128, 10**9], r"predict\.short_sides_px\.1: .*less than or equal to 16384"),
        ("predict.max_instances", 10**18, r"predict\.max_instances: .*less than or equal to 100000"),
        ("train_e_ups.networks.base.load_from", 3, r"networks\.base\.load_from: .*string, got 3"),
        ("train_lwl_htc.networks.base.load_from", ..., r"networks\.base\.load_from: Field required"),
        ("train_lwl_htc.networks.base.fpn_channels", 10**9, r"fpn_channels: .*less than or equal to 4096"),
        ("train_e_ups.optimizer.learning_rate", 3e38, r"learning_rate: .*less than or equal to 1000000"),
        ("fuse.min_stuff_area_px", 2**40, r"fuse\.min_stuff_area_px: .*less than or equal to 1000000000"),
        ("fuse.semantic_weights", {"e_ups": 1e300}, r"semantic_weights\.e_ups: .*less than or equal to 1000000"),
        ("fuse.semantic_weights", {"e_ups": 1e-300}, r"semantic_weights\.e_ups: expected 0, or a weight of at least"),
        ("fuse.min_score", "x" * 1000, r"fuse\.min_score: .*number, got 'x{79}…$"),
        ("prepare.source", "imagenet", r"prepare\.source: .*'scenes', 'coco_panoptic' or 'cityscapes', got 'imagenet'"),
        ("prepare.source", "coco_panoptic", r"prepare: .*prepare\.coco_panoptic must be filled in"),
        ("prepare.instances", "a.json", r"prepare: instances is a\.json and source scenes; expected panoptic"),
        ("prepare.instances", None, r"prepare\.instances: .*string, got None"),
        ("prepare.monitor_images", -1, r"prepare\.monitor_images: .*greater than or equal to 0, got -1"),
        (
            "prepare.monitor_images",
            0,
            r"train_e_ups\.evaluate_interval is 80, but prepare\.monitor_images is 0.*; raise monitor_images, or set",
        ),
        ("train_lwl_htc.evaluate_interval", 0, r"evaluate_interval: .*greater than or equal to 1, got 0"),
        ("train_lwl_htc.keep", "first", r"train_lwl_htc\.keep: .*'last' or 'best', got 'first'"),
        ("train_lwl_htc.ema_momentum", 1.0, r"ema_momentum: .*less than 1, got 1"),
        ("train_lwl_htc.ema_momentum", 0.0, r"ema_momentum: .*greater than 0, got 0"),
        ("prepare.heldout_images", 10**6, r"heldout_images must be below scenes\.train_images"),
        ("ends", [], r"ends is empty"),
        ("ends", ["e_ups", "e_ups"], r"ends lists e_ups twice"),
        ("ends", ["e_ups", "lwl_htc", "fusion"], r"fusion"),
        ("import_end.ends", ["lwl_htc"], r"ends lists lwl_htc twice"),
        ("import_end.ends", ["e_ups"], r"ends lists e_ups twice"),
        ("import_end.ends", ["fusion"], r"cannot be called fusion"),
        ("ends", ["E-UPS"], r"ends\.0: .*pattern"),
        ("fuse.systems", ["e_ups", "hrnet"], r"fuse\.systems lists hrnet"),
        ("fuse.semantic_weights", {"e_ups": 0.0, "lwl_htc": 0.0, "hrnet_aspp": 0.0}, r"all zero"),
        ("fuse.instance_weights", {"e_ups": 0.0, "lwl_htc": 0.0}, r"fuse\.instance_weights are all zero"),
        ("fuse.instance_weights", {"mine": 1.0}, r"fuse\.instance_weights has \['mine'\]; expected only names of"),
        ("fuse.instance_ensemble", "best", r"fuse\.instance_ensemble: .*'best_overall' or 'union', got 'best'"),
        ("fuse.method", "upsnet", r"fuse\.method: .*'heuristic', 'panoptic_head' or 'auto', got 'upsnet'"),
        ("fuse.methods", {"fuse": "heuristic"}, r"fuse\.methods has \['fuse'\]; expected only names of"),
        ("fuse.min_scores", {"ring": 1.5}, r"fuse\.min_scores\.ring: .*less than or equal to 1, got 1\.5"),
        ("fuse.min_scores", {"ring": 0.5, 7: 0.6}, r'fuse: min_scores has names and numbers as keys.* quotes, as "7"'),
        ("fuse.min_scores", [0.5], r"fuse\.min_scores: .*dictionary"),
        ("fuse.order", "area", r"fuse\.order: .*'score' or 'learned', got 'area'"),
        ("fuse.semantic_average", "logits", r"fuse\.semantic_average: .*'probabilities' or 'log_probabilities'"),
        ("fuse.semantic_weights", {"e_ups": 1.0, "hrnet": 1.0}, r"has \['hrnet'\]; expected only names of"),
        ("predict.member_weights.mine", {}, r"predict\.member_weights has \['mine'\]; expected only names of"),
        ("predict.member_weights.e_ups", {"big": 1.0}, r"e_ups has \['big'\]; expected only names of \['base', 'bfp"),
        ("train_lwl_htc.members", [], r"ends lists lwl_htc, but train_lwl_htc\.members is empty"),
        ("train_hrnet_aspp.members", [], r"ends lists hrnet_aspp, but train_hrnet_aspp\.members is empty"),
        ("train_hrnet_aspp.members", ["big"], r"aspp: .*members lists \['big'\], but networks describes only"),
        ("train_hrnet_aspp.networks.base.backbone.modules", [1, 4], r"backbone\.modules\.2: .*required"),
        ("train_hrnet_aspp.networks.base.backbone.blocks", 0, r"backbone\.blocks: .*greater than or equal to 1, got 0"),
        ("train_e_ups.networks.base.balanced_pyramid_level", 5, r"pyramid_level: .*less than or equal to 4, got 5"),
        ("train_hrnet_aspp.networks.base.backbone.width", 20, r"width: .*18, 30, 32, 40, 44, 48 or 64, got 20"),
        ("train_hrnet_aspp.networks.base.aspp_rates", [0, 6], r"aspp_rates\.0: .*greater than or equal to 1, got 0"),
        ("train_hrnet_aspp.networks.base.hard_pixel_frac", 0.0, r"hard_pixel_frac: .*greater than 0, got 0"),
        ("fuse.min_score", float("nan"), r"fuse\.min_score: .*finite"),
        ("train_lwl_htc.networks.base.semantic_level", 5, r"base\.semantic_level: .*less than or equal to 4, got 5"),
        ("predict.member_weights.e_ups", {"base": 0.0, "bfp_lsh": 0.0}, r"predict\.member_weights\.e_ups are all zero"),
        ("predict.member_weights.lwl_htc", {"big": 1.0}, r"\['big'\]; expected only names of \['base'\]"),
        ("predict.separate_ends", ["e_ups"], r"list \['e_ups'\]; expected each of ends \['e_ups', 'lwl_htc', 'hrn"),
        (
            "predict.shared_backbone",
            [{"first": "e_ups", "second": "lwl_htc"}],
            r"list \['e_ups', 'lwl_htc', 'hrnet_aspp', 'e_ups',",
        ),
        ("predict.shared_backbone", [["e_ups", "lwl_htc"]], r"predict\.shared_backbone\.0: "),
    ],
)
def test_a_bad_value_is_named_with_its_place_and_what_was_expected(edited, place, value, complaint):
    path = edited(place, value)
    with pytest.raises(ParamsError, match=complaint) as refused:
        load_params(path)
    assert all(line.startswith(f"{path}: ") for line in str(refused.value).splitlines())


HRNET_ASPP = {
    "ends": ["e_ups", "lwl_htc", "hrnet_aspp"],
    "predict.separate_ends": ["e_ups", "lwl_htc", "hrnet_aspp"],
    "train_hrnet_aspp.members": ["base"],
}
"""Switches the third end on."""

NO_HRNET_ASPP = {
    "ends": ["e_ups", "lwl_htc"],
    "predict.separate_ends": ["e_ups", "lwl_htc"],
    "train_hrnet_aspp.members": [],
}


def test_the_best_weights_need_an_evaluation():
    nothing_measured = {"train_e_ups.keep": "best", "train_e_ups.evaluate_interval": None}
    with pytest.raises(
        ParamsError, match=r"train_e_ups: keep is best, but evaluate_interval is null.*set keep to last"
    ):
        load_params(BUILT_IN, changes=nothing_measured)


@pytest.mark.parametrize("snapshots", [[200, 100], [100, 100], [240]])
def test_snapshots_ascend_and_lie_before_the_last_iteration(snapshots):
    with pytest.raises(ParamsError, match=r"train_e_ups: snapshots \[.*\] have to ascend and lie before"):
        load_params(BUILT_IN, changes={"train_e_ups.snapshots": snapshots})


def test_htcs_own_semantic_branch_has_no_level_4():
    base = "train_lwl_htc.networks.base"
    branch = {f"{base}.deformable_semantic_head": None, f"{base}.semantic_level": 4}
    with pytest.raises(ParamsError, match=r"networks\.base: .*semantic_level is 4; expected 0 to 3"):
        load_params(BUILT_IN, changes=branch)


def test_without_monitor_images_nothing_that_is_trained_may_be_evaluated():
    off = {"prepare.monitor_images": 0} | {f"train_{end}.evaluate_interval": None for end in ("e_ups", "lwl_htc")}
    assert load_params(BUILT_IN, changes=off | NO_HRNET_ASPP).train_hrnet_aspp.evaluate_interval is not None
    with pytest.raises(
        ParamsError, match=r"train_hrnet_aspp\.evaluate_interval is 60, but prepare\.monitor_images is 0"
    ):
        load_params(BUILT_IN, changes=off)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_three_lines_switch_hrnet_aspp_on(path):
    params = load_params(path, changes=HRNET_ASPP)
    assert params.fuse.semantic_weight_of_end(params.all_ends) == {"e_ups": 1.0, "lwl_htc": 1.0, "hrnet_aspp": 1.0}
    assert params.weight_of_member("hrnet_aspp") == {"base": 1.0}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fuse.systems": ["hrnet_aspp"]}, r"fuse\.systems lists hrnet_aspp; it has semantics but no instances"),
        ({"train_hrnet_aspp.schedule.batch_size": 1}, r"schedule\.batch_size is 1; expected at least 2"),
    ],
)
def test_what_hrnet_aspp_cannot_do_is_refused(changes, complaint):
    with pytest.raises(ParamsError, match=complaint):
        load_params(BUILT_IN, changes=HRNET_ASPP | changes)


def test_one_line_imports_an_end():
    params = load_params(BUILT_IN, changes={"import_end.ends": ["mine"]})
    assert params.all_ends == ("e_ups", "lwl_htc", "hrnet_aspp", "mine")
    for weights in (params.fuse.semantic_weight_of_end, params.fuse.instance_weight_of_end):
        assert weights(params.all_ends) == {"e_ups": 1.0, "lwl_htc": 1.0, "hrnet_aspp": 1.0, "mine": 1.0}
    assert params.fuse.method_of("mine") == "auto"


def test_an_imported_end_has_not_the_name_of_one_that_is_trained():
    with pytest.raises(ParamsError, match="ends lists hrnet_aspp, the name of an end that is trained here"):
        load_params(BUILT_IN, changes=NO_HRNET_ASPP | {"import_end.ends": ["hrnet_aspp"]})


def test_tables_hold_exceptions():
    changes = {
        "fuse.methods": {"fusion": "panoptic_head"},
        "fuse.semantic_weights.lwl_htc": 0.5,
        "fuse.semantic_weights.hrnet_aspp": 2.0,
        "train_e_ups.networks.big": {"fpn_channels": 64},
        "train_e_ups.members": ["big", "base"],
        "predict.member_weights.e_ups": {"base": 0.25},
    }
    params = load_params(BUILT_IN, changes=changes)
    assert [params.fuse.method_of(system) for system in ("e_ups", "fusion")] == ["auto", "panoptic_head"]
    assert params.fuse.semantic_weight_of_end(params.all_ends) == {"e_ups": 1.0, "lwl_htc": 0.5, "hrnet_aspp": 2.0}
    assert list(params.weight_of_member("e_ups").items()) == [("big", 1.0), ("base", 0.25)]


def test_the_members_of_an_end_are_those_that_are_trained(edited):
    assert load_members(BUILT_IN, "lwl_htc") == ("base",)
    assert load_members(BUILT_IN, "hrnet_aspp") == ("base",)
    path = edited("train_e_ups.members", ["bfp_lsh"])
    assert load_members(path, "e_ups") == ("bfp_lsh",)
    with pytest.raises(ParamsError, match=r"--end mine: expected one of \['e_ups', 'lwl_htc', 'hrnet_aspp'\]"):
        load_members(path, "mine")


@pytest.mark.parametrize(
    ("place", "value", "new"),
    [
        ("train_e_ups.memory.autocast", "bfloat16", "train_e_ups.optimizer.autocast"),
        ("train_hrnet_aspp.memory.accumulated_batches", 2, "train_hrnet_aspp.optimizer.accumulated_batches"),
        ("train_lwl_htc.network", {"fpn_channels": 48}, "train_lwl_htc.networks.base, beside train_lwl_htc.members"),
        ("fuse.routing", "single", "fuse.instance_ensemble; write best_of_class for best_ap, best_overall for single"),
        ("fuse.method", {"fusion": "heuristic"}, "fuse.method, one for all systems, and fuse.methods"),
    ],
)
def test_an_old_key_is_one_error_that_names_the_new_one(edited, place, value, new):
    path = edited(place, value)
    expected = rf"^{re.escape(str(path))}: {re.escape(place)}[.a-z]*: this key is now {re.escape(new)}[^\n]*$"
    with pytest.raises(ParamsError, match=expected):
        load_params(path)
    section, _, key = place.partition(".")
    with pytest.raises(ParamsError, match="this key is now"):
        load_params(BUILT_IN, changes={place: value})
    if section == "train_e_ups":
        with pytest.raises(ParamsError, match=expected):
            load_members(path, "e_ups")


def test_a_network_lists_what_differs_from_base():
    own = {"backbone": {"name": "resnet50", "deformable": True}, "semantic_channels": [64]}
    changes = {"train_e_ups.networks.big": own, "train_e_ups.networks.base.mask_convs": 3}
    ensemble = load_params(BUILT_IN, changes=changes).train_e_ups
    base, big = ensemble.network("base"), ensemble.network("big")
    assert base["mask_convs"] == 3
    assert big == base | {"backbone": base["backbone"] | own["backbone"], "semantic_channels": [64]}
    assert big["backbone"]["weights"] == "imagenet"


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (
            "networks.base.mask_convs",
            0,
            r"train_e_ups\.networks\.base\.mask_convs: .*greater than or equal to 1, got 0",
        ),
        ("networks.bfp_lsh.mask_convs", 0, r"networks\.bfp_lsh\.mask_convs: .*greater than or equal to 1, got 0"),
        ("networks.bfp_lsh.speed", 1, r"networks\.bfp_lsh\.speed: unknown key"),
        ("networks.bfp_lsh", 1, r"networks\.bfp_lsh: .*got 1"),
        ("networks.base", 1, r"networks\.base: .*got 1"),
        ("networks.base", ..., r"train_e_ups: networks describes only \['bfp_lsh'\]; expected base, from which"),
        ("networks", 1, r"networks: .*got 1"),
        ("networks", ..., r"networks: Field required"),
    ],
)
def test_what_is_wrong_in_a_network_is_told_once(edited, place, value, complaint):
    with pytest.raises(ParamsError, match=complaint) as refused:
        load_params(edited(f"train_e_ups.{place}", value))
    assert str(refused.value).count("\n") == 0


def test_a_member_that_nobody_described_is_refused():
    params = load_params(BUILT_IN)
    for ensemble in (params.train_e_ups, params.train_hrnet_aspp):
        assert "backbone" in ensemble.network("base")
        with pytest.raises(ParamsError, match=r"--member big: expected one of networks \['base'"):
            ensemble.network("big")


def test_every_mistake_is_told_at_once(edited):
    path = edited("fuse", {"min_score": 2.0, "speed": 1})
    with pytest.raises(ParamsError) as refused:
        load_params(path)
    assert "fuse.min_score" in str(refused.value)
    assert "fuse.speed: unknown key" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        *((text, "") for text in (b"fuse: [1, 2", b"a: b: c", b"", b"- 1\n- 2\n", b"\x00")),
        (b"\xff\xfe\x00\x80", "not valid YAML"),
        (BUILT_IN.read_bytes() + b"\nruntime: {device: auto, workers: 1}\n", "runtime"),  # there twice
        (None, "no such file"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_refused(tmp_path, content, complaint):
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ParamsError, match=rf"(?s){path}: .*{complaint}"):
        load_params(path)


ALIASES = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join(10 * [f'*{before}'])}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Nine lines for 10^9 values."""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (ALIASES, "its aliases stand for more than 100000 values"),
        ("a: " + "[" * 600 + "]" * 600, "nested too deeply"),
        ("a: " + "{b: " * 600 + "1" + "}" * 600, "nested too deeply"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(600)), "nested too deeply"),
        (f"a: {'9' * 5000}", "Exceeds the limit"),
        ("a: 2020-99-99", "month must be in"),
        ("a: !!int x", "invalid literal"),
        ("a: [1, 2", "expected ',' or ']', but got '<stream end>' in line 1, column 9"),
    ],
)
@pytest.mark.parametrize("kind", ["params", "profile"])
def test_yaml_that_would_take_all_time_or_memory_is_one_line(tmp_path, text, complaint, kind):
    path = tmp_path / "params.yaml"
    path.write_text(text if kind == "params" else f"extends: {BUILT_IN}\n{text}")
    if kind == "profile":
        complaint = complaint.replace("line 1", "line 2")
    with pytest.raises(ParamsError, match=rf"^{path}: not valid YAML: [^\n]*{re.escape(complaint)}[^\n]*$"):
        load_params(path)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}"])
def test_an_alias_of_what_it_stands_in_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match="or for themselves; write them out"):
        load_params(path)


def test_aliases_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "params.yaml"
    text = BUILT_IN.read_text()
    assert text.count("channels_last: true") == 3
    text = text.replace("channels_last: true", "channels_last: &yes true", 1)
    path.write_text("\ufeff" + text.replace("channels_last: true", "channels_last: *yes"), encoding="utf-8")
    assert load_params(path) == load_params(BUILT_IN)


def test_images_of_a_folder_are_not_counted_against_the_built_in_scenes():
    files = {"annotations": "a.json", "panoptic_dir": "png", "images_dir": "jpg"}
    changes = {"prepare.coco_panoptic": {"root": "mine", "train": files, "val": files}, "prepare.heldout_images": 1000}
    prepare = load_params(BUILT_IN, changes=changes | {"prepare.source": "coco_panoptic"}).prepare
    assert prepare.heldout_images > prepare.scenes.train_images


def test_an_address_without_a_backend_that_uses_it_is_refused():
    changes = {"runtime.cluster": "tcp://head:8786"}
    with pytest.raises(ParamsError, match=r"runtime: cluster is tcp://head:8786, but backend is processes, which uses"):
        load_params(BUILT_IN, changes=changes)
    runtime = load_params(BUILT_IN, changes=changes | {"runtime.backend": "dask"}).runtime
    assert runtime.worker_arguments() == {"workers": 2, "backend": "dask", "cluster": "tcp://head:8786"}


def test_numbers_are_read_as_yaml_1_2_has_them(tmp_path):
    text = BUILT_IN.read_text()
    assert "min_score: 0.5" in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("min_score: 0.5", "min_score: 1e-4"))
    assert load_params(path).fuse.min_score == 1e-4


def test_params_cannot_be_changed_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        load_params(BUILT_IN).fuse.min_score = 0.1
