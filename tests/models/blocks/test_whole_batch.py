"""Two real processes that share a batch, against one process that has all of it."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks import whole_batch
from antvisionps.models.training import loading
from antvisionps.models.training.samples import SampleOrder, TrainingSamples
from tests.forks import fork_two
from tests.models import first_step
from tests.models.conftest import batch_of, losses_of


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """What first_step leaves in two processes."""
    folder = tmp_path_factory.mktemp("two")
    assert fork_two(first_step.run_in_two_processes, folder) == [0, 0]
    return folder


def refuse_other_gradients(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor], *, exact: bool) -> None:
    """Learning norms magnify float32's rounding, so E-UPS's are compared as one vector; HRNet-ASPP's are in float64."""
    if not exact:
        whole, shared = (torch.cat([gradients[name].flatten() for name in expected]) for gradients in (expected, got))
        assert torch.cosine_similarity(whole, shared, dim=0) > 0.999
        assert (shared - whole).norm() < 0.02 * whole.norm()  # a direction alone would let a wrong scale pass
        return
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, rtol=1e-3, atol=1e-5 * largest), name


@pytest.mark.parametrize("variant", first_step.VARIANTS)
def test_losses_gradients_and_statistics_are_those_of_one_process_with_the_whole_batch(variant, two_processes, dataset):
    samples = TrainingSamples(dataset, seed=5, batch_size=first_step.BATCH_SIZE, **first_step.AUGMENTATION)
    one = first_step.first_step(variant, samples)
    two = torch.load(two_processes / f"{variant}.pth")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4, abs=1e-6)
    assert sum("loss" in name for name in one["losses"]) > (1 if variant == "hrnet_aspp" else 5)
    refuse_other_gradients(one["gradients"], two["gradients"], exact=variant != "e_ups_learning_norm")
    for name, buffer in one["buffers"].items():
        assert torch.allclose(two["buffers"][name].double(), buffer.double(), rtol=1e-4, atol=1e-6), name


def test_processes_that_pad_to_different_sizes_give_the_mean_over_all_pixels(two_processes, dataset):
    """The semantic loss, of each process's images alone, weighed by their pixels."""
    two = torch.load(two_processes / "two_sizes.pth")
    order = list(islice(SampleOrder(first_step.ASPECTS, seed=5, batch_size=first_step.BATCH_SIZE), 4))
    samples = TrainingSamples(dataset, seed=5, batch_size=2, **first_step.AUGMENTATION)
    total, pixels, sizes = 0.0, 0, set()
    for share in (order[:2], order[2:]):
        network = first_step.build_variant(first_step.OF_TWO_SIZES)
        batch = network.data_preprocessor(pseudo_collate([samples[key] for key in share]), True)
        loss = network(**batch, mode="loss")["loss_semantic_seg"].item()
        known = sum(int((sample.gt_sem_seg.sem_seg != 255).sum()) for sample in batch["data_samples"])
        total, pixels = total + known * loss, pixels + known
        sizes.add(batch["inputs"].shape)
    assert len(sizes) == 2
    assert two["losses"]["loss_semantic_seg"] == pytest.approx(total / pixels, rel=1e-5)


@pytest.mark.parametrize("variant", first_step.VARIANTS)
def test_every_parameter_has_a_gradient_where_no_image_has_a_thing(variant, dataset):
    network = first_step.build_variant(variant)
    losses_of(network.float(), batch_of(network, dataset, positions=(1, 2)))
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_the_caches_of_two_ends_are_those_of_one_process_to_the_last_byte(two_processes, dataset, tmp_path):
    first_step.predict(dataset, tmp_path / "one")
    for file in ("e_ups/val/instances.parquet", "e_ups/val/semantic.parquet", "hrnet_aspp/val/semantic.parquet"):
        assert (two_processes / "predictions" / file).read_bytes() == (tmp_path / "one" / file).read_bytes()
    assert len([path for path in (two_processes / "predictions").rglob("*") if path.is_file()]) == 3


def test_a_batch_that_the_processes_cannot_share_equally_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "get_dist_info", lambda: (0, 3))
    with pytest.raises(ModelError, match=r"batch_size is 4, which 3 processes cannot share .* a multiple of 3: change"):
        loading._share_of_batch(4, 3)


def test_the_hardest_of_all_pixels_are_found_wherever_they_are(monkeypatch):
    others = torch.tensor([9.0, 8.0, -torch.inf])
    own = torch.tensor([1.0, 7.0, 2.0])
    monkeypatch.setattr(whole_batch, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        whole_batch, "all_gather", lambda x: [x, torch.tensor([2])] if x.dtype == torch.int64 else [x, others]
    )
    # Of five pixels the hardest half are three, one of which is here.
    assert whole_batch.hardest(own, 0.5).tolist() == [7.0]
    assert whole_batch.hardest(own, 1.0).tolist() == [1.0, 7.0, 2.0]


def test_no_element_is_told_to_other_gpus_in_float32():
    shared = whole_batch.share_batch(torch.nn.Sequential(torch.nn.BatchNorm2d(4)), torch.device("cuda")).eval()
    assert shared(torch.zeros(0, 4, 3, 3).bfloat16()).dtype == torch.float32


def test_a_norm_that_no_process_has_elements_for_learns_nothing(monkeypatch):
    monkeypatch.setattr(torch.distributed.nn.functional, "all_reduce", lambda x: x)
    norm = torch.nn.BatchNorm2d(4)
    whole_batch._shared_batch_norm(norm, torch.zeros(0, 4, 3, 3)).sum().backward()
    assert not norm.weight.grad.any()
    assert torch.isfinite(norm.running_mean).all()
