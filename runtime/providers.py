"""The model providers by name: the wire that each speaks, where it is, and which variables hold its key.

Only names stand here, no values. A bare model name says its maker by its first word.
"""

import re
from dataclasses import dataclass
from typing import Literal

Wire = Literal["anthropic", "openai", "google", "ollama", "scripted"]


@dataclass(frozen=True)
class Vendor:
    """One provider.

    Attributes:
        base_url: where it is, unless the variable ``base_env`` says otherwise.
        key_names: variables that may hold its key, the first that is set wins; none: it wants no key.
        structured: how it is asked for JSON. ``json_object``: it knows no schemas, so the schema is told
            in the system prompt.
        counts_on_request: whether it must be asked to count the tokens of a stream (OpenAI's wire).
        tokens_key: its name for the limit on the answer's tokens (OpenAI's wire).
    """

    wire: Wire
    base_url: str = ""
    base_env: str = ""
    key_names: tuple[str, ...] = ()
    structured: Literal["json_schema", "json_object"] = "json_schema"
    counts_on_request: bool = True
    tokens_key: str = "max_tokens"


VENDORS: dict[str, Vendor] = {
    "anthropic": Vendor(
        "anthropic", "https://api.anthropic.com", "ANTHROPIC_BASE_URL", ("ANTHROPIC_API_KEY",)
    ),
    "openai": Vendor(
        "openai",
        "https://api.openai.com/v1",
        "OPENAI_BASE_URL",
        ("OPENAI_API_KEY",),
        # Its reasoning models refuse the older name.
        tokens_key="max_completion_tokens",
    ),
    "google": Vendor(
        "google",
        "https://generativelanguage.googleapis.com/v1beta",
        "GOOGLE_BASE_URL",
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    ),
    "ollama": Vendor("ollama", "http://127.0.0.1:11434", "OLLAMA_HOST"),
    "mistral": Vendor(
        "openai",
        "https://api.mistral.ai/v1",
        "MISTRAL_BASE_URL",
        ("MISTRAL_API_KEY",),
        counts_on_request=False,
    ),
    "groq": Vendor("openai", "https://api.groq.com/openai/v1", "GROQ_BASE_URL", ("GROQ_API_KEY",)),
    "deepseek": Vendor(
        "openai",
        "https://api.deepseek.com/v1",
        "DEEPSEEK_BASE_URL",
        ("DEEPSEEK_API_KEY",),
        structured="json_object",
    ),
    "openrouter": Vendor(
        "openai", "https://openrouter.ai/api/v1", "OPENROUTER_BASE_URL", ("OPENROUTER_API_KEY",)
    ),
    "together": Vendor("openai", "https://api.together.xyz/v1", "TOGETHER_BASE_URL", ("TOGETHER_API_KEY",)),
    "fireworks": Vendor(
        "openai", "https://api.fireworks.ai/inference/v1", "FIREWORKS_BASE_URL", ("FIREWORKS_API_KEY",)
    ),
    "xai": Vendor("openai", "https://api.x.ai/v1", "XAI_BASE_URL", ("XAI_API_KEY",)),
    "cerebras": Vendor("openai", "https://api.cerebras.ai/v1", "CEREBRAS_BASE_URL", ("CEREBRAS_API_KEY",)),
    "scripted": Vendor("scripted"),
}
PROVIDERS = tuple(VENDORS)
"""The providers that can run."""

VARIABLES = tuple(
    dict.fromkeys(
        name for vendor in VENDORS.values() for name in (*vendor.key_names, vendor.base_env) if name
    )
)
"""Every variable of the environment that says where a provider is or holds its key."""

_OTHER_NAMES = {"gemini": "google", "claude": "anthropic"}
_MAKERS = {
    "claude": "anthropic",
    "gpt": "openai",
    "chatgpt": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "gemini": "google",
    "mistral": "mistral",
    "codestral": "mistral",
    "grok": "xai",
    "llama": "meta",
    "command": "cohere",
    "deepseek": "deepseek",
}


def provider_named(name: str) -> str:
    """A provider's one name: in lower case, without other spellings."""
    lowered = name.lower()
    return _OTHER_NAMES.get(lowered, lowered)


def provider_of(model: str) -> tuple[str | None, str]:
    """Provider and model of ``provider/model``, or of a model whose maker is known by its name."""
    provider, slash, name = model.partition("/")
    if slash and provider and name:
        return provider, name
    family = re.split(r"[-_.:\d]", model, maxsplit=1)[0] if not model.startswith("o") else model.split("-")[0]
    return _MAKERS.get(family.lower()), model
