"""The language of conditions: small, total and bounded.

``compile_expression`` refuses bad syntax once, when a workflow is registered;
``Expression.evaluate`` then never raises, whatever the state holds.
"""

from runtime.expr.evaluate import Expression, compile_expression
from runtime.expr.lexer import ExpressionError

__all__ = ["Expression", "ExpressionError", "compile_expression"]
