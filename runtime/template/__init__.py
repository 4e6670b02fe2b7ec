"""Templates: ``{{ }}`` in the texts of a workflow, with the syntax of Jinja2 and none of its reach.

Jinja2's own parser reads the text when a workflow is registered. Its syntax
tree then becomes closures over the same total operations that conditions use
(``runtime.expr.values``). The walk is the allow-list: a node without a rule is
refused, so there are no statements, loops, macros, imports, ``*``, ``**``, and
no calls but the listed string methods. No code is generated, and an attribute
is a key of an object, never an attribute of a Python value.

What a template shows: a text as it is, null as nothing, anything else as JSON.
A path that does not exist shows nothing too, and gives a warning. A text that
is one ``{{ expression }}`` and nothing else keeps the expression's JSON type.
Only ``{{ }}`` is special: ``{#`` is plain text, ``{% %}`` is refused, and
``{{ '{{' }}`` shows two braces.
"""

from runtime.template.render import Rendered, Template, compile_template, names_used
from runtime.template.syntax import TemplateError

__all__ = ["Rendered", "Template", "TemplateError", "compile_template", "names_used"]
