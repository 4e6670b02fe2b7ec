"""What is wrong with a source, collected, so that an author sees every reason at once."""

from typing import Any, NoReturn

from pydantic import ValidationError

from runtime.errors import InvalidWorkflow

PROBLEMS_MAX = 100

_WORDS = {
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
}


class Report:
    """Problems, which refuse the source, and warnings, which do not."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def problem(self, sentence: str) -> None:
        self.problems.append(sentence)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def at_node(self, node_id: str, sentence: str) -> None:
        self.problem(f"node {node_id!r}: {sentence}")

    def warn_at_node(self, node_id: str, sentence: str) -> None:
        self.warn(f"node {node_id!r}: {sentence}")

    def of_validation(self, error: ValidationError, *, node_id: str | None = None) -> None:
        """Take over pydantic's findings, as sentences that name the place."""
        for finding in error.errors(include_url=False, include_input=False):
            place = tuple(finding["loc"])
            if node_id is None and place[:1] == ("nodes",) and len(place) > 1:
                self.at_node(str(place[1]), _sentence(place[2:], finding))
            elif node_id is not None:
                self.at_node(node_id, _sentence(place, finding))
            else:
                self.problem(_sentence(("ir", *place), finding))

    def raise_problems(self) -> None:
        """Raise InvalidWorkflow if there are problems."""
        if self.problems:
            refuse(*self.problems)


def refuse(*problems: str) -> NoReturn:
    """Raise InvalidWorkflow for these problems, at most ``PROBLEMS_MAX`` of them shown."""
    shown = list(dict.fromkeys(problems))
    more = len(shown) - PROBLEMS_MAX
    if more > 0:
        shown = [*shown[:PROBLEMS_MAX], f"and {more} more"]
    raise InvalidWorkflow(shown[0], problems=shown)


def _sentence(place: tuple[int | str, ...], finding: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if finding["type"] == "missing":
        return f"{path} is required"
    if finding["type"] in _WORDS:
        return f"{path} {_WORDS[finding['type']]}".lstrip()
    if finding["type"] == "value_error":
        message = str(finding["ctx"]["error"])
    else:
        message = finding["msg"][:1].lower() + finding["msg"][1:]
    return f"{path}: {message}" if path else message
