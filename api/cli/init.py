"""``jamjet init``: a project that runs at once."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from api.cli.exits import EXIT_USAGE, CliError
from api.cli.options import Form
from api.cli.output import Output, note, print_json, print_line

_TEMPLATES = Path(__file__).with_name("project")
_FILES = {
    "jamjet.toml": "jamjet.toml",
    "workflow.yaml": "workflow.yaml",
    "flows.py": "flows.py",
    "README.md": "README.md",
    ".gitignore": "gitignore",
}
"""What is made, and of what."""
_PLACEHOLDER = "@project@"
_NAME_WITHOUT_LETTERS = "project"


def init(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where; made if need be.")] = Path("."),
    output: Form = Output.TABLE,
) -> None:
    """Make a project: a workflow with a model, a person's approval and a Python function.

    Nothing is overwritten.
    """
    _require_room(folder)
    project = _name_of(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, template in _FILES.items():
            text = (_TEMPLATES / template).read_text("utf-8").replace(_PLACEHOLDER, project)
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise CliError(f"{folder} cannot be written: {error.strerror}", EXIT_USAGE) from None
    if output is Output.JSON:
        print_json({"project": project, "folder": str(folder), "files": list(_FILES)})
        return
    for name in _FILES:
        print_line(str(folder / name))
    _say_what_is_next(folder)


def _require_room(folder: Path) -> None:
    """Refuse to overwrite, before anything is written."""
    taken = [name for name in _FILES if (folder / name).exists()]
    if taken:
        raise CliError(
            f"{folder} has {', '.join(taken)} already, and nothing is overwritten:"
            f" name another folder, as in `jamjet init my-project`",
            EXIT_USAGE,
        )
    if folder.exists() and not folder.is_dir():
        raise CliError(f"{str(folder)!r} is no folder: name another", EXIT_USAGE)


def _name_of(folder: Path) -> str:
    """A workflow's id from the folder's name: lower case, digits and dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return name if name[:1].isalpha() else f"{_NAME_WITHOUT_LETTERS}-{name}".strip("-")


def _say_what_is_next(folder: Path) -> None:
    note("\nnext:")
    if folder.resolve() != Path.cwd():
        note(f"  cd {shlex.quote(str(folder))}")
    note("  jamjet dev")
    note('  jamjet run workflow.yaml --input \'{"topic": "Ray"}\' --stream    (in a second terminal)')
    note("  jamjet approve ID --decision approved                           (the id that `run` prints)")
