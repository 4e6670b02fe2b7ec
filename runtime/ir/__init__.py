"""Workflow sources: the IR that clients post and the YAML that people write, compiled to the normal form.

YAML becomes IR, and IR becomes a ``runtime.graph.Graph``; there is one path. A
source is refused as a whole, with every reason, or compiles.
"""

from runtime.ir.normalise import CompiledWorkflow, compile_ir, compile_yaml
from runtime.ir.policy import RegistrationPolicy
from runtime.ir.yaml_source import yaml_to_ir

__all__ = ["CompiledWorkflow", "RegistrationPolicy", "compile_ir", "compile_yaml", "yaml_to_ir"]
