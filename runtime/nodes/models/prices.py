"""What models cost.

A table names prices in US dollars per million tokens, by ``provider/model``::

    {"openai/gpt-4o": {"input": 2.5, "output": 10.0}, "ollama/*": {"input": 0, "output": 0}}

``*`` stands for anything. A date at the end of a model's name is left out if the whole name is not
listed. Prices are those of a plain call: discounts for cached input, batches and the like are not known
here, so that a cost is rather too high than too low.
"""

import json
import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from runtime.errors import BadRequest

_FILE = Path(__file__).with_name("prices.json")
_DATED = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2}|\d{3}|latest)$")
_PER = 1_000_000

Price = tuple[float, float]
"""Dollars for a million tokens of input, and of output."""


class Prices:
    """The price table in force: the built-in one, and the operator's over it."""

    def __init__(self, own: Mapping[str, Any] | None = None) -> None:
        self._table = {**_built_in(), **read_prices(own or {})}

    def cost_usd(
        self, provider: str, *models: str, input_tokens: int | None, output_tokens: int | None
    ) -> float | None:
        """The cost of one call; None if no name of the model is listed, or nothing was counted.

        Args:
            models: the model's names, the most exact first.
        """
        price = next((found for model in models if (found := self._price(f"{provider}/{model}"))), None)
        if price is None or input_tokens is None or output_tokens is None:
            return None
        return round((input_tokens * price[0] + output_tokens * price[1]) / _PER, 10)

    def _price(self, name: str) -> Price | None:
        for candidate in (name, _DATED.sub("", name)):
            if candidate in self._table:
                return self._table[candidate]
        patterns = (entry for entry in self._table if "*" in entry and fnmatchcase(name, entry))
        return next((self._table[pattern] for pattern in patterns), None)


def read_prices(table: Any) -> dict[str, Price]:
    """Check a table of prices.

    Raises:
        BadRequest: it has another shape; the message says where.
    """
    if not isinstance(table, Mapping):
        raise BadRequest("model prices must be an object of provider/model to prices")
    return {name: _price(name, entry) for name, entry in table.items()}


def load_prices(path: str) -> dict[str, Any]:
    """The table in an operator's file.

    Raises:
        BadRequest: it cannot be read, or is no table of prices.
    """
    try:
        table = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadRequest(f"JAMJET_MODEL_PRICES: {path} cannot be read: {error}") from error
    try:
        read_prices(table)
    except BadRequest as error:
        raise BadRequest(f"JAMJET_MODEL_PRICES: {path}: {error.detail}") from error
    return dict(table)


def _price(name: str, entry: Any) -> Price:
    amounts: list[Any] = [entry.get(key) for key in ("input", "output")] if isinstance(entry, Mapping) else []
    if len(amounts) != 2 or not all(_is_amount(amount) for amount in amounts):
        raise BadRequest(f"the price of {name!r} must be an object with the numbers input and output")
    return float(amounts[0]), float(amounts[1])


def _is_amount(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )


@cache
def _built_in() -> dict[str, Price]:
    return read_prices(json.loads(_FILE.read_bytes()))
