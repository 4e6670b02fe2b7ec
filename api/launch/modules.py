"""Which Python modules are a folder's own: those that its workflows may name."""

from pathlib import Path


def modules_of(folder: Path) -> tuple[str, ...]:
    """Patterns for the modules and packages in a folder, and all below them: ``("tools", "tools.*")``.

    Found once: a module that is added later is allowed from the next start on.
    """
    names = sorted(name for path in folder.iterdir() if (name := _module_name(path)) is not None)
    return tuple(pattern for name in names for pattern in (name, f"{name}.*"))


def _module_name(path: Path) -> str | None:
    name = path.stem if path.suffix == ".py" else path.name
    if not name.isidentifier() or name.startswith("__"):
        return None
    if path.suffix == ".py":
        return name if path.is_file() else None
    is_package = path.is_dir() and not (path / "pyvenv.cfg").exists() and any(path.glob("*.py"))
    return name if is_package else None
