import numpy as np

from antvisionps.fusion import system
from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.mask_union import UnionRules
from antvisionps.fusion.system import FusionSettings, fuse_by_each, fuse_predictions
from antvisionps.predictions.semantic import ImageSemantics
from tests.drawing import category_set, draw_box, found

CAT, SKY, SEA = 1, 2, 3
CATEGORIES = category_set({CAT: "cat"}, {SKY: "sky", SEA: "sea"})
HEIGHT, WIDTH = 8, 12


def settings(weight, **changes):
    rules = HeuristicRules(changes.pop("min_score", 0.1), 0.5, 1)
    chosen = {"average_of": "probabilities", "end_of_category": None, "union": None} | changes
    return FusionSettings("heuristic", rules, {"a": weight, "b": 1.0}, **chosen)


def predictions(seed):
    rng = np.random.default_rng(seed)
    boxes = [draw_box((HEIGHT, WIDTH), (left, 2, 4, 4)) for left in rng.integers(0, 8, 3)]
    scores = np.sort(rng.random(3).astype(np.float32))[::-1]
    instances = found(*((CAT, score, box) for score, box in zip(scores, boxes, strict=True)))
    planes = rng.integers(0, 256, (2, 4, 6), dtype=np.uint8)
    shape = {"height": HEIGHT, "width": WIDTH, "input_height": HEIGHT, "input_width": WIDTH, "stride": 2.0}
    semantics = ImageSemantics(image_id=1, **shape, category_ids=np.array([SKY, SEA], np.int32), planes=planes)
    return instances, semantics


TRIED = [
    settings(1.0),
    settings(1.0, min_score=0.6),
    settings(0.0),
    settings(1.0, average_of="log_probabilities"),
    settings(1.0, union=UnionRules({"a": 1.0, "b": 1.0}, 0.5)),
    settings(1.0, union=UnionRules({"a": 1.0, "b": 1.0}, 0.5), min_score=0.6),
]


def test_settings_tried_together_fuse_as_each_does_alone_and_share_what_they_have_in_common(monkeypatch):
    of_end = {end: predictions(seed) for seed, end in enumerate(("a", "b"))}
    instances, semantics = ({end: pair[kind] for end, pair in of_end.items()} for kind in (0, 1))
    alone = [fuse_predictions(instances, semantics, categories=CATEGORIES, settings=tried) for tried in TRIED]
    calls = []
    for name in ("average_semantics", "join_instances"):
        work = getattr(system, name)
        monkeypatch.setattr(system, name, lambda *a, _work=work, _name=name, **k: calls.append(_name) or _work(*a, **k))
    together = list(fuse_by_each(instances, semantics, categories=CATEGORIES, settings=TRIED))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.segment_ids, other.segment_ids)
        assert (one.segments, list(one.rejected)) == (other.segments, list(other.rejected))
    assert len({fused.segment_ids.tobytes() for fused in together}) > 2
    assert {fused.segments[-1].end for fused in together} == {"a+b", "b"}
    assert sorted(calls) == ["average_semantics"] * 3 + ["join_instances"]
