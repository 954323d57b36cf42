"""The report page's colours of categories, which people with any kind of colour blindness can tell apart.

`report/site/colors.js` has the same, and says how they were chosen.
"""

from antvisionps.panoptic.categories import CategorySet

Rgb = tuple[int, int, int]

_BYTES = bytes.fromhex(
    "0072b2 ff7700 00ffbb 663322 9911ff ffbbff aaee77 bb7755 4422aa 992266 ff55ff cc2200 "
    "55bbaa ddee00 eeaa88 aa88bb bb2255 662277 ff4488 aa33dd 99bb55 99eedd eecc44 337711"
)
DISTINCT_RGB: list[Rgb] = list(zip(_BYTES[0::3], _BYTES[1::3], _BYTES[2::3], strict=True))


def page_colors(categories: CategorySet) -> list[Rgb]:
    """The colour of each class index. The more vivid ones go to things, as stuff covers most of an image; more
    categories than there are distinct colours keep their own."""
    if len(categories) > len(DISTINCT_RGB):
        return [category.color_rgb for category in categories.categories]
    return sorted(DISTINCT_RGB[: len(categories)], key=lambda rgb: min(rgb) - max(rgb))
