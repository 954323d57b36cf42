"""Transformers' own output, of models of random weights, imported by the guide's snippets as it is meant."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from antvisionps.interchange.import_end import import_end
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from tests.interchange.guide import HEIGHT, WIDTH, category_map, imported, names, snippet

QUERIES = 12

SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]}
SWIN |= {"window_size": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
DECODER = {"hidden_dim": 32, "encoder_feedforward_dim": 16, "dim_feedforward": 16, "num_attention_heads": 2}
DECODER |= {"num_queries": QUERIES, "encoder_layers": 1, "decoder_layers": 2}
DETR = {"model_type": "detr", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": QUERIES}
DETR |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
SQUARE = {"height": 64, "width": 64}


def mask2former(id2label):
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    sizes = DECODER | {"feature_size": 32, "mask_feature_size": 32, "id2label": id2label}
    config = Mask2FormerConfig(backbone_config=SwinConfig(**SWIN), **sizes)
    return Mask2FormerForUniversalSegmentation(config), Mask2FormerImageProcessor(size=SQUARE), {}


def maskformer(id2label):
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation, MaskFormerImageProcessor, SwinConfig

    sizes = {"fpn_feature_size": 32, "mask_feature_size": 32, "decoder_config": DETR, "id2label": id2label}
    config = MaskFormerConfig(backbone_config=SwinConfig(**SWIN), **sizes)
    return MaskFormerForInstanceSegmentation(config), MaskFormerImageProcessor(size=SQUARE), {}


def oneformer(id2label):
    """Its tokens of the task are given: a tokenizer would have to be downloaded."""
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation, OneFormerImageProcessor, SwinConfig

    text = {"task_seq_len": 8, "text_encoder_width": 16, "text_encoder_num_layers": 1, "text_encoder_vocab_size": 16}
    sizes = DECODER | text | {"conv_dim": 32, "mask_dim": 32, "query_dec_layers": 1, "id2label": id2label}
    config = OneFormerConfig(backbone_config=SwinConfig(**SWIN), is_training=False, **sizes)
    processor = OneFormerImageProcessor(size=SQUARE)
    return OneFormerForUniversalSegmentation(config), processor, {"task_inputs": torch.zeros(1, 8)}


def eomt(id2label):
    from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    sizes |= {"num_blocks": 1, "num_queries": QUERIES, "num_upscale_blocks": 1, "mlp_ratio": 1}
    config = EomtConfig(**sizes, id2label=id2label)
    processor = EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True)
    return EomtForUniversalSegmentation(config), processor, {}


@pytest.fixture(autouse=True)
def _quiet():
    """Transformers logs to the stderr that was there when it was imported."""
    import transformers

    transformers.logging.set_verbosity_error()


def predict(model, processor, photo, more):
    inputs = (
        processor(images=photo.copy(), return_tensors="pt", **({"task_inputs": ["panoptic"]} if more else {})) | more
    )
    with torch.no_grad():
        return model.eval()(**{name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)})


def make_sure(outputs, seed):
    """As of a trained model: each query has a block of its own and a class, or none, that it is rather sure of."""
    generator = torch.Generator().manual_seed(seed)
    outputs["class_queries_logits"] = 6 * torch.randn(outputs.class_queries_logits.shape, generator=generator)
    height, width = outputs.masks_queries_logits.shape[2:]
    row, column = (torch.arange(side) * cells // side for side, cells in ((height, 3), (width, 4)))
    owner = row[:, None] * 4 + column
    outputs["masks_queries_logits"] = torch.where(owner == torch.arange(QUERIES)[:, None, None], 9.0, -9.0)[None]
    return outputs


@pytest.mark.parametrize("is_sure", [False, True], ids=["nothing found", "found"])
@pytest.mark.parametrize("build", [mask2former, maskformer, oneformer, eomt], ids=lambda build: build.__name__)
def test_what_transformers_finds_is_imported(folder, dataset, identity, capsys, build, is_sure):
    torch.manual_seed(0)
    model, processor, more = build(names(dataset))
    rows, results = [], {}
    for image in dataset.images:
        outputs = predict(model, processor, dataset.load_photo(image), more)
        scope = {"np": np, "processor": processor, "height": HEIGHT, "width": WIDTH, "rows": rows}
        scope |= {"image_id": image.image_id}
        scope["outputs"] = make_sure(outputs, seed=image.image_id) if is_sure else outputs
        exec(snippet("post_process_panoptic_segmentation"), scope)
        results[image.image_id] = scope["result"]
    exec(snippet("model.config.id2label"), {"json": json, "Path": Path, "rows": rows, "model": model})
    kinds = {str(result["segmentation"].dtype) for result in results.values()}
    assert bool(kinds & {"torch.int32", "torch.int64"}) == is_sure, kinds
    for image_id, (instances, semantics) in imported(folder, dataset, identity).items():
        expected = np.zeros((HEIGHT, WIDTH), int)
        things = []
        for segment in results[image_id]["segments_info"]:
            mask = results[image_id]["segmentation"].numpy() == segment["id"]
            category = dataset.categories.categories[segment["label_id"]]
            expected[mask] = category.category_id
            things += [(category.category_id, np.float32(segment["score"]), mask.sum())] * category.is_thing
        np.testing.assert_array_equal(category_map(semantics), expected)
        found = zip(instances.category_ids, instances.scores, instances.areas_px, strict=True)
        assert sorted(found) == sorted(things)
        assert (len(results[image_id]["segments_info"]) > 2) == is_sure
    assert "warning: " not in capsys.readouterr().err or is_sure


def fused_rows(labels, fuse):
    """panoptic.json and the map of a Mask2Former that is sure of these labels, a quarter of the photo each."""
    from transformers import Mask2FormerImageProcessor

    owner = np.indices((HEIGHT, WIDTH))[1] * len(labels) // WIDTH
    masks = torch.where(torch.tensor(owner) == torch.arange(len(labels))[:, None, None], 20.0, -20.0)
    outputs = SimpleNamespace(
        class_queries_logits=20.0 * torch.nn.functional.one_hot(torch.tensor(labels), 12).float()[None],
        masks_queries_logits=masks[None],
    )
    process = Mask2FormerImageProcessor().post_process_panoptic_segmentation
    result = process(outputs, target_sizes=[(HEIGHT, WIDTH)], label_ids_to_fuse=fuse)[0]
    return result["segmentation"].numpy(), result["segments_info"]


def test_stuff_that_transformers_fused_is_one_and_an_id_of_two_segments_is_refused(folder, dataset, refuse, identity):
    ball, sky, grass = 0, 6, 7
    assert [names(dataset)[label] for label in (ball, sky, grass)] == ["ball", "sky", "grass"]
    (folder / "labels.json").write_text(json.dumps(names(dataset)))

    def write(labels):
        segment_ids, segments = fused_rows(labels, fuse={sky, grass})
        for image in dataset.images:
            np.save(folder / "panoptic" / f"{image.image_id}.npy", segment_ids)
        rows = [
            {"image_id": image.image_id, "file_name": f"{image.image_id}.npy", "segments_info": segments}
            for image in dataset.images
        ]
        (folder / "panoptic.json").write_text(json.dumps(rows))
        return [(segment["id"], segment["label_id"]) for segment in segments]

    (folder / "semantic").rmdir()
    assert write([sky, ball, sky, grass]) == [(1, sky), (2, ball), (1, sky), (2, grass)]
    refuse(folder, r"segment 2 appears twice, .*label_ids_to_fuse=set\(\)")
    assert write([sky, sky, ball, ball]) == [(1, sky), (1, sky), (2, ball), (3, ball)]
    import_end(folder, folder.parent / "out", dataset=dataset, identity=identity)
    with SemanticReader(folder.parent / "out" / SEMANTIC_FILE, identity) as cache:
        quarters = category_map(cache.read(dataset.images[0].image_id))[0, 12::24].tolist()
    assert quarters == [2, 2, 3, 3]


def test_an_instance_map_of_transformers_is_imported_but_for_a_hidden_instance(folder, dataset, refuse, identity):
    """Floats, 0 for the first instance, -1 for void; a later instance may hide a former one altogether."""
    from transformers import Mask2FormerImageProcessor

    row, column = np.indices((96, 96))
    masks = np.stack([row < 48, row >= 80, (row >= 60) & (column < 50)])
    outputs = SimpleNamespace(
        class_queries_logits=20.0 * torch.nn.functional.one_hot(torch.tensor([0, 1, 2]), 12).float()[None],
        masks_queries_logits=torch.where(torch.tensor(masks), 20.0, -20.0)[None],
    )
    process = Mask2FormerImageProcessor().post_process_instance_segmentation
    result = process(outputs, target_sizes=[(HEIGHT, WIDTH)])[0]
    segment_ids, segments = result["segmentation"].numpy(), result["segments_info"]
    assert segment_ids.dtype == np.float32
    assert {-1.0, 0.0} < set(np.unique(segment_ids).tolist())
    (folder / "semantic").rmdir()
    (folder / "labels.json").write_text(json.dumps(names(dataset)))

    def write(segments):
        rows = []
        for image in dataset.images:
            np.save(folder / "panoptic" / f"{image.image_id}.npy", segment_ids)
            rows.append({"image_id": image.image_id, "file_name": f"{image.image_id}.npy", "segments_info": segments})
        (folder / "panoptic.json").write_text(json.dumps(rows))

    write([*segments, segments[0] | {"id": 77}])
    refuse(folder, "segment 77 has no pixel in the map; leave it out if others hide it")
    write(segments)
    import_end(folder, folder.parent / "out", dataset=dataset, identity=identity)
    with InstancesReader(folder.parent / "out" / INSTANCES_FILE, identity) as cache:
        areas = sorted(cache.read(dataset.images[0].image_id).areas_px.tolist())
    assert areas == sorted(np.unique(segment_ids[segment_ids >= 0], return_counts=True)[1].tolist())


def test_labels_of_a_semantic_model_of_transformers_are_imported(folder, dataset, identity):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    sizes = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    model = SegformerForSemanticSegmentation(SegformerConfig(**sizes, id2label=names(dataset)))
    processor = SegformerImageProcessor(size=SQUARE)
    expected = {}
    for image in dataset.images:
        scope = {"np": np, "Image": Image, "processor": processor, "height": HEIGHT, "width": WIDTH}
        scope |= {"photo": Path(image.file_name), "outputs": predict(model, processor, dataset.load_photo(image), {})}
        exec(snippet("post_process_semantic_segmentation"), scope)
        expected[image.image_id] = dataset.categories.category_ids[scope["labels"].numpy()]
    (folder / "labels.json").write_text(json.dumps(model.config.id2label))
    for image_id, (_, semantics) in imported(folder, dataset, identity).items():
        np.testing.assert_array_equal(category_map(semantics), expected[image_id])
    assert len(np.unique(np.stack(list(expected.values())))) > 2
