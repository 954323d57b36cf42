"""Which images are taken out of train. Photos that are equal pixel by pixel stay on one side."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from antvisionps.core.errors import DataError


def refuse_unusable_counts(train_images: int, heldout_images: int, monitor_images: int) -> None:
    """Raises DataError where so many images of train leave none to train on, or none held out."""
    heldout = choose_heldout(range(train_images), count=heldout_images, seed=0)
    choose_monitor(set(range(train_images)) - heldout, count=monitor_images, seed=0)


def take_out(
    pixels_of: Mapping[int, bytes], *, heldout_images: int, monitor_images: int, seed: int
) -> dict[str, frozenset[int]]:
    """The ids of train's images that are held out and, of those left, of the monitor's; equal photos have equal pixels.

    Says so where another number comes out. Raises what `choose_heldout` and `choose_monitor` do.
    """
    heldout = choose_heldout(pixels_of, count=heldout_images, seed=seed, equal_photos=group_equal(pixels_of))
    _say_other_number(len(heldout), "images are held out", "prepare.heldout_images", heldout_images)
    left = {image_id: pixels for image_id, pixels in pixels_of.items() if image_id not in heldout}
    monitor = choose_monitor(left, count=monitor_images, seed=seed, equal_photos=group_equal(left))
    _say_other_number(len(monitor), "images are of the monitor split", "prepare.monitor_images", monitor_images)
    return {"heldout": heldout, "monitor": monitor}


def _say_other_number(number: int, what: str, param: str, wanted: int) -> None:
    if number != wanted:
        print(f"{number} {what}, not {param} = {wanted}: photos that are equal pixel by pixel stay on one side")


def choose_heldout(
    image_ids: Iterable[int], *, count: int, seed: int, equal_photos: Iterable[Collection[int]] = ()
) -> frozenset[int]:
    """The image ids to hold out: a pure function of the set of ids, the groups of equal photos, and the seed.

    They are `count`, or the nearest number (the lower of two) that splits no group. Raises DataError when `count`
    leaves nothing held out or nothing to train on, or when all photos are equal.
    """
    ordered = sorted(image_ids)
    if not 1 <= count < len(ordered):
        raise DataError(
            f"prepare.heldout_images is {count} and the train annotations have {len(ordered)} images; expected 1 to "
            f"{len(ordered) - 1}, so that some are left to train on"
        )
    return _draw(ordered, count, seed, equal_photos)


def choose_monitor(
    image_ids: Iterable[int], *, count: int, seed: int, equal_photos: Iterable[Collection[int]] = ()
) -> frozenset[int]:
    """The image ids of the monitor split, of those that are not held out, by the rules of `choose_heldout`.

    None where `count` is 0. Raises DataError when `count` leaves nothing to train on, or when all photos are equal.
    """
    ordered = sorted(image_ids)
    if count >= len(ordered):
        raise DataError(
            f"prepare.monitor_images is {count} and {len(ordered)} images of train are not held out; expected 0 to "
            f"{len(ordered) - 1}, so that some are left to train on"
        )
    return _draw(ordered, count, seed, equal_photos) if count else frozenset()


def _draw(ordered: Sequence[int], count: int, seed: int, equal_photos: Iterable[Collection[int]]) -> frozenset[int]:
    rng = np.random.default_rng(seed)
    drawn = frozenset(ordered[index] for index in rng.choice(len(ordered), size=count, replace=False))
    groups = sorted(sorted(group) for group in equal_photos if len(group) > 1)
    if all(len(drawn.intersection(group)) in (0, len(group)) for group in groups):
        return drawn
    grouped = {image_id for group in groups for image_id in group}
    singles = [image_id for image_id in ordered if image_id not in grouped]
    groups = [groups[index] for index in rng.permutation(len(groups))]
    # Those that were drawn come first, so that as few as possible change sides.
    singles.sort(key=lambda image_id: image_id not in drawn)
    return _choose_whole(groups, singles, drawn, count)


def group_equal(keys: Mapping[int, bytes]) -> list[list[int]]:
    """The image ids of each key that several images have."""
    ids_of: dict[bytes, list[int]] = {}
    for image_id, key in keys.items():
        ids_of.setdefault(key, []).append(image_id)
    return [ids for ids in ids_of.values() if len(ids) > 1]


def _choose_whole(
    groups: Sequence[Sequence[int]], singles: Sequence[int], drawn: Collection[int], count: int
) -> frozenset[int]:
    """Whole groups and as many of the singles, from the front, as give the number nearest to `count`.

    A group whose first image was drawn is held out where the number can still be reached.
    """
    reachable = _reachable_numbers([len(group) for group in groups], len(singles), count)
    left = _nearest(reachable[0], count, total=len(singles) + sum(map(len, groups)))
    chosen: set[int] = set()
    for group, reachable_after in zip(groups, reachable[1:], strict=True):
        takes = left >= len(group) and reachable_after >> (left - len(group)) & 1
        leaves = reachable_after >> left & 1
        if takes and (group[0] in drawn or not leaves):
            chosen.update(group)
            left -= len(group)
    return frozenset(chosen).union(singles[:left])


def _reachable_numbers(sizes: Sequence[int], num_singles: int, count: int) -> list[int]:
    """For each position the numbers, as bits, that the groups from there on and the singles can add up to."""
    mask = (1 << (count + max([count, *sizes]) + 1)) - 1
    reachable = [(1 << (num_singles + 1)) - 1 & mask]
    for size in reversed(sizes):
        reachable.append((reachable[-1] | reachable[-1] << size) & mask)
    return reachable[::-1]


def _nearest(reachable: int, count: int, *, total: int) -> int:
    for distance in range(max(count, total)):
        for number in (count - distance, count + distance):
            if 0 < number < total and reachable >> number & 1:
                return number
    raise DataError(
        f"all {total} photos of train are equal, pixel by pixel, so none can be taken out; give photos that differ"
    )
