"""What an installation allows a workflow to name: Python modules and variables of the environment."""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class RegistrationPolicy:
    """The doors of registration.

    Attributes:
        python_modules: patterns of module names (``app.*``); ``*`` allows all, none allows none.
        template_env: variables that templates and conditions may read, the secrets among them.
        secrets: names of secrets, which models may name as keys; None: any of ``template_env`` may be one.
    """

    python_modules: tuple[str, ...]
    template_env: frozenset[str]
    secrets: frozenset[str] | None = None

    def allows_secret(self, name: str) -> bool:
        return name in (self.template_env if self.secrets is None else self.secrets)

    def allows_module(self, module: str) -> bool:
        return any(fnmatchcase(module, pattern) for pattern in self.python_modules)


def function_problem(policy: RegistrationPolicy, module: str, function: str) -> str | None:
    """Why a workflow may not call this function, or None. Every function reference passes here."""
    if not all(part.isidentifier() for part in module.split(".")):
        return f"{module!r} is not the name of a python module"
    if not policy.allows_module(module):
        return f"python module {module!r} is not allowed (JAMJET_PYTHON_MODULES)"
    if not function.isidentifier() or function.startswith("_"):
        return f"{function!r} is not the plain name of a public function"
    return None
