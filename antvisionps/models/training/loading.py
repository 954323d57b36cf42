"""How the samples of a training are loaded: each process its part of every batch, with worker processes or without."""

import os
from collections.abc import Iterator
from multiprocessing.util import get_temp_dir
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, Dataset

from antvisionps.core.errors import AntVisionPSError, ModelError
from antvisionps.models.training.processes import exit_with_parent
from antvisionps.models.training.samples import Sample, SampleOrder, TrainingSamples
from antvisionps.models.training.settings import TrainingSettings


def open_loader(samples: TrainingSamples, settings: TrainingSettings, *, workers: int) -> DataLoader[Any]:
    """This process's part of every batch. Raises what a sample raises, also where a worker process loads it, and
    ModelError where the processes cannot share a batch equally."""
    rank, processes = get_dist_info()
    batch_size = _share_of_batch(settings.schedule["batch_size"], processes)
    if workers:
        get_temp_dir()  # which they share, and which goes with this process: they end by a signal and remove nothing
    order = SampleOrder(samples.aspects, seed=settings.seed, batch_size=batch_size, rank=rank, processes=processes)
    return _Loader(
        _ErrorsAsSamples(samples),
        batch_size=batch_size,
        sampler=order,
        num_workers=workers,
        pin_memory=get_device() == "cuda",
        collate_fn=_collate_or_hand_over,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
    )


class _Loader(DataLoader[Any]):
    """Raises the errors that come as batches. torch would raise another one, with a traceback in its text."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, Exception):
                raise batch
            yield batch


class _ErrorsAsSamples(Dataset[Any]):
    def __init__(self, samples: Dataset[Sample]) -> None:
        self._samples = samples

    def __getitem__(self, key: Any) -> Sample | Exception:
        try:
            return self._samples[key]
        except (AntVisionPSError, OSError) as error:
            return error


def _collate_or_hand_over(samples: list[Any]) -> dict[str, list[Any]] | Exception:
    return next((sample for sample in samples if isinstance(sample, Exception)), None) or pseudo_collate(samples)


def _share_of_batch(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        raise ModelError(
            f"schedule.batch_size is {batch_size}, which {processes} processes cannot share equally; expected a "
            f"multiple of {processes}: change schedule.batch_size or runtime.processes"
        )
    return batch_size // processes


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    exit_with_parent(os.getppid())
