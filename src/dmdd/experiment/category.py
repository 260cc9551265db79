"""The category that settings name."""

from dmdd.config.schema import DatasetSettings
from dmdd.config.targets import build
from dmdd.core.errors import UserError
from dmdd.data.listing import Category


def read_category(dataset: DatasetSettings, category: str | None) -> Category:
    """Read the category's file lists.

    Args:
        dataset: The reader and its arguments.
        category: Name of the category.

    Returns:
        The category.

    Raises:
        UserError: As the layout's reader; without a category the message lists those found.
    """
    if category is not None and (category == "all_each" or set("*?[") & set(category)):
        raise UserError(f"category={category} trains one model a category: add -m; category=all pools them in one")
    try:
        found = build(dataset.layout, category=category)
    except UserError as error:
        if category is None or "," not in category:
            raise
        raise UserError(f"{error}; several categories need -m, one model each") from None
    if not isinstance(found, Category):
        raise UserError(f"{dataset.layout['_target_']} gave {type(found).__name__}, not a dmdd.data.listing.Category")
    return found
