"""The category that settings name, or several of them for one model."""

import fnmatch
from dataclasses import replace

from dmdd.config.schema import DatasetSettings
from dmdd.config.targets import build
from dmdd.core.errors import UserError
from dmdd.data.layouts import category_names
from dmdd.data.listing import Category, pool

ALL = "all"
WILDCARDS = frozenset("*?[")


def read_category(dataset: DatasetSettings, category: str | None) -> Category:
    """Read the file lists of a category, or of several that one model is for.

    Args:
        dataset: The reader and its arguments.
        category: Name of the category, names with commas between them, a pattern with wildcards, or `all`.

    Returns:
        The category, or the pooled ones, under the name that the settings give the data set.

    Raises:
        UserError: As the layout's reader; nothing matches; without a category the message lists those found.
    """
    if category == "all_each":
        raise UserError(f"category={category} trains one model a category: add -m; category=all trains one for all")
    if category is not None and (category == ALL or WILDCARDS & set(category)):
        return pool([_read(dataset, name) for name in _matching(dataset, category)], name=category)
    try:
        return _read(dataset, category)
    except UserError:
        names = [name.strip() for name in (category or "").split(",")]
        if len(names) < 2:
            raise
    return pool([_read(dataset, name) for name in dict.fromkeys(names) if name], name=",".join(names))


def _matching(dataset: DatasetSettings, category: str) -> list[str]:
    known = category_names({name: str(value) for name, value in dataset.layout.items()})
    if category in known:  # a folder of that name
        return [category]
    names = [name for name in known if category == ALL or fnmatch.fnmatchcase(name, category)]
    if not names:
        raise UserError(f"no category matches {category!r}: there are {', '.join(known)}")
    return names


def _read(dataset: DatasetSettings, category: str | None) -> Category:
    found = build(dataset.layout, category=category)
    if not isinstance(found, Category):
        raise UserError(f"{dataset.layout['_target_']} gave {type(found).__name__}, not a dmdd.data.listing.Category")
    return replace(found, dataset=dataset.name)
