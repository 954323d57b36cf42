"""The end of an error message about a wrong name or number: what there is instead."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 5


def name_choices(names: Sequence[str]) -> str:
    """`; there are a, b and c`, of many the first few."""
    if not names:
        return "; there is none"
    shown, more = names[:_NAMED], len(names) - _NAMED
    listed = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
    return f"; there {'is' if len(names) == 1 else 'are'} {listed}"


def name_nearest(image_id: int, image_ids: Sequence[int]) -> str:
    """`; it has 60 images, …` and the ids nearest to the one asked for, ascending."""
    if not image_ids:
        return "; it has no image"
    nearest = sorted(sorted(image_ids, key=lambda existing: (abs(existing - image_id), existing))[:_NAMED])
    return (
        f"; its {len(image_ids)} images go from {min(image_ids)} to {max(image_ids)}, nearest are "
        f"{', '.join(map(str, nearest))}"
    )
