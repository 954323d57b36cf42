"""Training samples: photos and panoptic truth, augmented, in mmdet's structures.

What sample k of a run holds is a pure function of the seed, the batch size and k, so that workers, resuming and the
order of loading change nothing.
"""

import itertools
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from torch.utils.data import Dataset, Sampler

from antvisionps.models.blocks.resizing import resize_photo, resized_hw
from antvisionps.models.training.settings import Augmentation
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import GtInstancesReader, open_annotated
from antvisionps.panoptic.rle import parse_runs
from antvisionps.panoptic.segments import PanopticImage, class_index_map

Sample = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Thing:
    """One true instance of a sample: mask (H, W) bool."""

    category_id: int
    is_crowd: bool
    mask: np.ndarray


WINDOW_BATCHES = 16
"""Batches whose images are sorted by shape together. On COCO's shapes padding adds 2 to 5 % of pixels; with more, the
same images would meet in every epoch."""


class SampleOrder(Sampler[tuple[int, int]]):
    """Endless (sample number, image position) pairs: every image once an epoch, reshuffled by (seed, epoch).

    `aspects` are the images' heights over widths. A batch has images of like aspect, sorted by it, so that padding each
    process's share of it to its largest image adds few pixels; images of one aspect stay as they are shuffled. A batch
    that two epochs share is not sorted.

    Of `processes` that load `batch_size` images each, the process of this rank gets its share of every batch: together
    they get what one process that loads all of it would.
    """

    def __init__(
        self, aspects: np.ndarray, *, seed: int, batch_size: int = 1, rank: int = 0, processes: int = 1
    ) -> None:
        self._aspects = np.asarray(aspects, dtype=np.float64)
        self._seed = seed
        self._batch_size = batch_size
        self._rank = rank
        self._processes = processes
        self._first = 0

    def skip(self, num_samples: int) -> None:
        """Starts later, where an interrupted run stopped; counts this process's samples."""
        self._first = num_samples

    def __len__(self) -> int:
        """Samples in an epoch; mmengine asks for it."""
        return len(self._aspects)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        shuffled = -1
        order: np.ndarray = np.empty(0)
        for own_number in itertools.count(self._first):
            batch, place = divmod(own_number, self._batch_size)
            number = (batch * self._processes + self._rank) * self._batch_size + place
            epoch, position = divmod(number, len(self))
            if epoch != shuffled:
                shuffled, order = epoch, self._order_of_epoch(epoch)
            yield number, int(order[position])

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self))
        batch_size = self._batch_size * self._processes
        begin = -epoch * len(self) % batch_size  # the images before it complete the last epoch's last batch
        end = begin + max(len(self) - begin, 0) // batch_size * batch_size
        for first in range(begin, end, WINDOW_BATCHES * batch_size):
            window = slice(first, min(first + WINDOW_BATCHES * batch_size, end))
            order[window] = order[window][_like_aspects_together(self._aspects[order[window]], batch_size)]
        return order


def _like_aspects_together(aspects: np.ndarray, batch_size: int) -> np.ndarray:
    """An order of (n,) images, n a multiple of `batch_size`: batches of like aspects, each placed where the first of
    its images stood."""
    batches = np.argsort(aspects, kind="stable").reshape(-1, batch_size)
    return batches[np.argsort(batches.min(axis=1))].ravel()


class _PickledImages:
    """Images in one array. A loader process that looks at a Python object writes its reference count, and so copies the
    page that it shared with the others: of COCO's train split 0.3 GB in each."""

    def __init__(self, images: Sequence[PanopticImage]) -> None:
        pickled = [pickle.dumps(image) for image in images]
        self._ends = np.cumsum([0, *map(len, pickled)])
        self._bytes = np.frombuffer(b"".join(pickled), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, position: int) -> PanopticImage:
        image: PanopticImage = pickle.loads(self._bytes[self._ends[position] : self._ends[position + 1]].data)
        return image


class TrainingSamples(Dataset[Sample]):
    """(sample number, image position) to an augmented image with its instances and semantic truth.

    Instances are those of the data set's own file, which may overlap, or else the things of its panoptic maps. The
    `batch_size` images of a batch, of all processes, have one short side: images of like aspect become of like size.
    `aspects` are the images' heights over widths.
    """

    def __init__(
        self, dataset: PanopticDataset, *, seed: int, batch_size: int = 1, **augmentation: Unpack[Augmentation]
    ) -> None:
        self._dataset = replace(dataset, images=())
        self._images = _PickledImages(dataset.images)
        self.aspects = np.array([image.height / image.width for image in dataset.images])
        self._instances = open_annotated(dataset)
        self._seed = seed
        self._batch_size = batch_size
        self._augmentation = augmentation
        # mmengine shows this to its visualizer and warns where it is missing.
        self.metainfo = {"classes": tuple(category.name for category in dataset.categories.categories)}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        number, position = key
        rng = np.random.default_rng((self._seed, number, 1))
        image = self._images[position]
        photo = self._dataset.load_photo(image)
        segment_ids = self._dataset.load_segment_ids(image).astype(np.int32)
        augmentation = self._augmentation
        short_sides = augmentation["short_sides_px"]
        short_side = draw_short_side_px(short_sides, seed=self._seed, batch=number // self._batch_size)
        photo, segment_ids = _resize(photo, segment_ids, short_side, augmentation["max_long_side_px"])
        is_mirrored = augmentation["flip"] and rng.random() < 0.5
        if is_mirrored:
            photo, segment_ids = photo[:, ::-1], segment_ids[:, ::-1]
        photo = _jitter_colors(photo, rng, augmentation["photometric"])
        categories = self._dataset.categories
        if self._instances is None:
            things = visible_things(segment_ids, image=image, categories=categories)
        else:
            things = _annotated_things(self._instances, image, hw=segment_ids.shape, is_mirrored=is_mirrored)
        return make_sample(photo, segment_ids, things, image=image, categories=categories)


def draw_short_side_px(short_sides_px: Sequence[int], *, seed: int, batch: int) -> int:
    """The short side of every image of the batch with that number."""
    return int(np.random.default_rng((seed, batch, 2)).choice(short_sides_px))


def visible_things(segment_ids: np.ndarray, *, image: PanopticImage, categories: CategorySet) -> list[Thing]:
    """The thing segments of an (H, W) panoptic map."""
    things = [s for s in image.segments if categories.by_id(s.category_id).is_thing]
    return [Thing(s.category_id, s.is_crowd, segment_ids == s.segment_id) for s in things]


def _annotated_things(
    instances: GtInstancesReader, image: PanopticImage, *, hw: tuple[int, ...], is_mirrored: bool
) -> list[Thing]:
    """The annotated instances of an image, resized and mirrored as its map is."""
    gt = instances.read(image.image_id)
    runs = parse_runs(gt.rles, height=image.height, width=image.width)
    things = []
    for index, (category_id, is_crowd) in enumerate(zip(gt.category_ids, gt.is_crowd, strict=True)):
        mask: np.ndarray = runs.mask(index).view(np.uint8)
        if mask.shape != hw:
            mask = cv2.resize(mask, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST_EXACT)
        things.append(Thing(int(category_id), bool(is_crowd), (mask[:, ::-1] if is_mirrored else mask) > 0))
    return things


def make_sample(
    photo: np.ndarray,
    segment_ids: np.ndarray,
    things: Sequence[Thing],
    *,
    image: PanopticImage,
    categories: CategorySet,
) -> Sample:
    """mmdet's sample of an (H, W, 3) RGB photo, its (H, W) segment ids and its things.

    Things become instances with tight boxes xyxy, whose right and lower edges lie after the last pixel. Crowds become
    ignored boxes, so that detections in them are neither right nor wrong. Things that vanished when the image shrank
    are left out.
    """
    seen = [thing for thing in things if thing.mask.any()]
    instances = [thing for thing in seen if not thing.is_crowd]
    height, width = segment_ids.shape
    masks, crowds = (
        BitmapMasks([thing.mask.astype(np.uint8) for thing in some], height, width)
        for some in (instances, [thing for thing in seen if thing.is_crowd])
    )
    sample = DetDataSample(
        metainfo={"img_id": image.image_id, "img_shape": (height, width), "ori_shape": (image.height, image.width)}
    )
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes.from_instance_masks(masks).tensor,
        labels=torch.tensor([categories.class_index(thing.category_id) for thing in instances], dtype=torch.long),
        masks=masks,
    )
    sample.ignored_instances = InstanceData(bboxes=HorizontalBoxes.from_instance_masks(crowds).tensor)
    semantic = class_index_map(segment_ids, image, categories)
    # Loader processes hand it over through /dev/shm, which is small in containers: a byte a pixel.
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic)[None])
    return {"inputs": torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))), "data_samples": sample}


def _resize(
    photo: np.ndarray, segment_ids: np.ndarray, short_side_px: int, max_long_side_px: int
) -> tuple[np.ndarray, np.ndarray]:
    hw = resized_hw(segment_ids.shape, short_side_px=short_side_px, max_long_side_px=max_long_side_px)
    if hw == segment_ids.shape:
        return photo, segment_ids
    return resize_photo(photo, hw), cv2.resize(segment_ids, (hw[1], hw[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _jitter_colors(photo: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    if strength == 0:
        return photo
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3).astype(np.float32)
    x = photo.astype(np.float32) * brightness
    x = (x - x.mean()) * contrast + x.mean()
    grey = x.mean(axis=2, keepdims=True)
    return np.clip((x - grey) * saturation + grey, 0, 255).astype(np.uint8)
