"""The category that a configuration names."""

from typing import Any

from dmdd.config.compose import build
from dmdd.core.errors import UserError


def read_category(config: Any) -> Any:
    """Read the category's file lists.

    Args:
        config: Resolved configuration.

    Returns:
        ``dmdd.data.listing.Category``.

    Raises:
        UserError: As the layout's reader; without a category the message lists those found.
    """
    category = None if config.category is None else str(config.category)  # category=01 is a name, not a number
    if category is not None and (category == "all_each" or set("*?[") & set(category)):
        raise UserError(f"category={category} trains one model a category: add -m; category=all pools them in one")
    return build(config.dataset.layout, category=category)
