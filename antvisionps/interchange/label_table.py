"""How another tool numbers categories: its labels, as category ids of the data set.

Without a table a label is a category id. A table `labels.json` is {label: category}, as Hugging Face's
`config.id2label` is, or a list of categories, as mmdet's and mmsegmentation's `classes`, where labels count from 0, or
{"things": …, "stuff": …}, two such tables, as detectron2 counts things and stuff apart. A category is named by its name
or its id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from antvisionps.core.errors import PredictionsError
from antvisionps.core.json_files import read_json
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.ids import whole_number

LABELS = "labels.json"
"""What the file of the table is called, beside the predictions."""

VOID_LABELS = (0, 255)
"""What tools write into a label map where they predict nothing; a category of that label takes precedence."""


@dataclass(frozen=True)
class LabelTable:
    """`things` and `stuff`: label → category id, or the name of a category that the data set lacks · `prompts`: text →
    category id; the name of a category needs none."""

    categories: CategorySet
    things: Mapping[int, int | str]
    stuff: Mapping[int, int | str]
    prompts: Mapping[str, int] = field(default_factory=dict)

    def category_id(self, label: object, *, is_thing: bool | None, where: str) -> int:
        """The category of a label of a thing or of stuff; None: of whichever.

        Raises PredictionsError if no category of the data set has that label, or if the label has one as a thing and
        another as stuff and `is_thing` is None, or if the data set's category is not what `is_thing` says.
        """
        found = {self._look_up(table, label, where) for table in self._tables(is_thing)}
        if len(found) > 1:
            raise PredictionsError(
                f"{where}: label {label} is one category as a thing and another as stuff; expected isthing beside it"
            )
        category_id = found.pop()
        if is_thing is not None and self.categories.by_id(category_id).is_thing != is_thing:
            kind = "a thing" if is_thing else "stuff"
            raise PredictionsError(
                f"{where}: category {category_id} ({self.categories.by_id(category_id).name!r}) stands here as {kind}, "
                "in the data set it is not; predict with the data set's categories"
            )
        return category_id

    def category_of_text(self, text: str, *, where: str) -> int:
        """The category of a prompt, or of that name. Raises PredictionsError if there is none."""
        found = self.prompts.get(text)
        if found is None:
            found = next((one.category_id for one in self.categories.categories if one.name == text), None)
        if found is None:
            raise PredictionsError(
                f"{where}: {text!r} is no category of the data set; tell its category with labels={{{text!r}: …}}"
            )
        return found

    def category_of_pixels(self, label: Any, *, where: str) -> int | None:
        """The category of a label in a semantic map; None for void, which is a label of VOID_LABELS without one."""
        if label in VOID_LABELS and label not in self.stuff:
            return None
        return self.category_of_plane(label, where=where)

    def category_of_plane(self, label: Any, *, where: str) -> int:
        """The category of a label among classes of pixels: where things have a table of their own, a stuff category.

        Raises PredictionsError as `category_id` does.
        """
        return self.category_id(label, is_thing=None if self.is_one_table else False, where=where)

    @cached_property
    def is_one_table(self) -> bool:
        """Whether things and stuff share their labels."""
        return self.things == self.stuff

    def _tables(self, is_thing: bool | None) -> list[Mapping[int, int | str]]:
        if is_thing is None:
            return [self.things] if self.is_one_table else [self.things, self.stuff]
        return [self.things if is_thing else self.stuff]

    def _look_up(self, table: Mapping[int, int | str], label: object, where: str) -> int:
        try:
            category = table.get(whole_number(label))
        except ValueError:
            category = None
        if not isinstance(category, int):
            named = f" ({category!r})" if category is not None else " (text)" if isinstance(label, str) else ""
            raise PredictionsError(
                f"{where}: unknown category {label!r}{named}; expected the number of one of the data set's, or a "
                "labels.json that says which of them it is (a list of names where labels count from 0)"
            )
        return category


def own_labels(categories: CategorySet) -> LabelTable:
    """Labels are category ids."""
    identity: dict[int, int | str] = {category_id: category_id for category_id in categories.category_ids.tolist()}
    return LabelTable(categories, identity, identity)


def read_label_table(path: Path, categories: CategorySet) -> LabelTable:
    """The table of that file; without such a file labels are category ids. Raises PredictionsError on a broken one."""
    if not path.exists():
        return own_labels(categories)
    document = read_json(path, what="table of labels", remedy="write it again", error=PredictionsError)
    return make_label_table(document, categories, where=str(path))


def make_label_table(document: Any, categories: CategorySet, *, where: str) -> LabelTable:
    """The table that a labels.json holds. Raises PredictionsError on what is none."""
    if isinstance(document, Mapping) and set(document) == {"things", "stuff"}:
        things, stuff = (_table(where, document[kind], categories) for kind in ("things", "stuff"))
        return LabelTable(categories, things, stuff)
    table = _table(where, document, categories)
    return LabelTable(categories, table, table)


def make_prompt_table(prompts: Mapping[str, str | int], categories: CategorySet) -> LabelTable:
    """Labels are texts; `prompts` names the category of each, by name or id. Raises PredictionsError on an unknown."""
    table = own_labels(categories)
    category_of = {
        text: named
        if named in categories and isinstance(named, int)
        else table.category_of_text(str(named), where="labels")
        for text, named in prompts.items()
    }
    return LabelTable(categories, table.things, table.stuff, category_of)


def _table(where: str, document: Any, categories: CategorySet) -> dict[int, int | str]:
    id_of_name = {category.name: category.category_id for category in categories.categories}
    table: dict[int, int | str] = {}
    if isinstance(document, list) and document:
        document = dict(enumerate(document))
    try:
        for label, category in document.items():
            known = category in categories if isinstance(category, int) else category in id_of_name
            table[int(label)] = id_of_name.get(category, category) if known else str(category)
    except (AttributeError, TypeError, ValueError) as error:
        raise PredictionsError(
            f'{where}: expected {{"0": "name of a category", …}}, or two such tables under "things" and "stuff"; got '
            f"{str(document)[:80]}"
        ) from error
    return table
