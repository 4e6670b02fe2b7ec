"""Agent cards: JamJet's, and those of A2A 0.2, 0.3 and 1.0, read into one form.

Cards come from strangers, so everything in them is data: bounded, never rendered as a template, and kept
verbatim beside what was understood of it.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from runtime import jsonvalue
from runtime.errors import BadRequest

CARD_BYTES_MAX = 64 * 1024
NAME_CHARS_MAX = 256
TEXT_CHARS_MAX = 4_096
URL_CHARS_MAX = 2_048
SKILLS_MAX = 500
LISTED_MAX = 500
"""Entries of any other list of a card."""

A2A_OLDEST = "0.2.0"
"""What a card speaks that is A2A's but does not say."""

Schema = dict[str, Any] | str

_RESERVED = frozenset(("search", "discover", ".", ".."))
"""As the id of an agent, its path would be another route's."""


class Skill(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent can do. ``id`` is what a call names. Schemas are objects, or texts as they were given."""

    id: str
    name: str
    description: str = ""
    input_schema: Schema | None = None
    output_schema: Schema | None = None
    tags: tuple[str, ...] = ()


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """Where an agent speaks A2A: ``binding`` as A2A 1.0 names it (``JSONRPC``), ``version`` as ``0.3``."""

    url: str
    binding: str
    version: str


class AgentCard(msgspec.Struct, frozen=True, kw_only=True):
    """What was understood of a card."""

    id: str
    uri: str
    name: str
    description: str = ""
    version: str = ""
    skills: tuple[Skill, ...] = ()
    protocols: tuple[str, ...] = ()
    tools_provided: tuple[str, ...] = ()
    tools_consumed: tuple[str, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    streaming: bool = False
    labels: dict[str, str] = {}

    def traits(self) -> frozenset[str]:
        """What the card can be found by: ``skill:x``, ``protocol:a2a``, ``trust_domain:x``."""
        found = {trait("skill", name) for skill in self.skills for name in (skill.id, skill.name)}
        found |= {trait("protocol", protocol) for protocol in self.protocols}
        if self.labels.get("trust_domain"):
            found.add(trait("trust_domain", self.labels["trust_domain"]))
        return frozenset(found)


def trait(kind: str, name: str) -> str:
    """How a card's property is indexed; ``mcp_server`` and ``mcp_client`` are found as ``mcp``."""
    if kind == "protocol":
        name = "mcp" if name.lower().startswith("mcp") else name.lower()
    return f"{kind}:{name}"


def read_card(value: Any, *, found_at: str | None = None) -> AgentCard:
    """Read a card of any of the known forms.

    Args:
        found_at: the URL under which it was discovered, where a card that names none is taken to be.

    Raises:
        BadRequest: it is no card; the message names the field.
    """
    if not isinstance(value, dict):
        raise BadRequest("an agent card must be a JSON object")
    size = len(jsonvalue.encode(value, what="the card"))
    if size > CARD_BYTES_MAX:
        raise BadRequest(f"the card has {size} bytes, over the limit of {CARD_BYTES_MAX}")
    card = _read_a2a(value) if _is_a2a(value) else _read_jamjet(value, found_at)
    if not card.name and not card.id:
        raise BadRequest("card.name is required")
    name = card.name or card.id
    return msgspec.structs.replace(card, id=card.id or slug(name), name=name, uri=card.uri or found_at or "")


def slug(name: str) -> str:
    """An id made of a name: ``Security Reviewer`` -> ``security-reviewer``."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if words in _RESERVED:
        return f"{words}-agent"
    return words[:64].strip("-") or f"agent-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def card_digest(value: Any) -> str:
    """What two cards with the same content have in common, however they are written."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def flattened(card: AgentCard, value: dict[str, Any]) -> dict[str, Any]:
    """The card's own fields at the top, with what every card of JamJet's has; skills have an ``id``."""
    given = value.get("capabilities")
    capabilities = dict(given) if isinstance(given, dict) else {}
    capabilities |= {
        "skills": [_shown_skill(skill) for skill in card.skills],
        "protocols": list(card.protocols),
        "tools_provided": list(card.tools_provided),
        "tools_consumed": list(card.tools_consumed),
    }
    return {
        "autonomy": "guided",
        "auth": {"type": "none"},
        **value,
        "id": card.id,
        "uri": card.uri,
        "name": card.name,
        "description": card.description,
        "version": card.version,
        "capabilities": capabilities,
        "labels": card.labels,
    }


def _shown_skill(skill: Skill) -> dict[str, Any]:
    shown = {
        "id": skill.id,
        "name": skill.name,
        "description": skill.description,
        "input_schema": skill.input_schema,
        "output_schema": skill.output_schema,
    }
    return shown | ({"tags": list(skill.tags)} if skill.tags else {})


# --- the forms ------------------------------------------------------------------------------------


def _is_a2a(value: dict[str, Any]) -> bool:
    """A2A's cards have their skills at the top, and say where they are by ``url`` or by interfaces."""
    return (
        "supportedInterfaces" in value
        or "supported_interfaces" in value
        or (isinstance(value.get("skills"), list) and "uri" not in value)
    )


def _read_jamjet(value: dict[str, Any], found_at: str | None) -> AgentCard:
    capabilities = _object(value, "capabilities")
    protocols = tuple(_texts(capabilities, "protocols", "capabilities.protocols"))
    uri = _url(value, "uri") or _url(value, "url")
    interfaces: tuple[Interface, ...] = ()
    if any(name.lower() == "a2a" for name in protocols) and (uri or found_at):
        version = _text(value, "protocolVersion") or A2A_OLDEST
        interfaces = (Interface(url=uri or found_at or "", binding="JSONRPC", version=version),)
    return AgentCard(
        id=_id(value),
        uri=uri,
        name=_text(value, "name", most=NAME_CHARS_MAX),
        description=_text(value, "description"),
        version=_text(value, "version", most=NAME_CHARS_MAX),
        skills=tuple(_skills(capabilities, "capabilities.skills")),
        protocols=protocols,
        tools_provided=tuple(_texts(capabilities, "tools_provided", "capabilities.tools_provided")),
        tools_consumed=tuple(_texts(capabilities, "tools_consumed", "capabilities.tools_consumed")),
        interfaces=interfaces,
        streaming=capabilities.get("streaming") is True,
        labels=_labels(value),
    )


def _read_a2a(value: dict[str, Any]) -> AgentCard:
    interfaces = tuple(_interfaces(value))
    capabilities = _object(value, "capabilities")
    return AgentCard(
        id=_id(value),
        uri=_url(value, "uri") or _url(value, "url") or (interfaces[0].url if interfaces else ""),
        name=_text(value, "name", most=NAME_CHARS_MAX),
        description=_text(value, "description"),
        version=_text(value, "version", most=NAME_CHARS_MAX),
        skills=tuple(_skills(value, "skills")),
        protocols=tuple(dict.fromkeys(("a2a", *_texts(capabilities, "protocols", "capabilities.protocols")))),
        interfaces=interfaces,
        streaming=capabilities.get("streaming") is True,
        labels=_labels(value),
    )


def _interfaces(value: dict[str, Any]) -> Iterator[Interface]:
    """Those of 1.0, else those of 0.3: the url with the preferred transport, then the additional ones."""
    listed = _list(value, "supportedInterfaces", "supported_interfaces")
    for index, entry in enumerate(listed):
        place = f"supportedInterfaces[{index}]"
        if not isinstance(entry, dict):
            raise BadRequest(f"card.{place} must be an object")
        yield Interface(
            url=_required(_url(entry, "url", place), f"{place}.url"),
            binding=_text(entry, "protocolBinding", "protocol_binding") or "JSONRPC",
            version=_text(entry, "protocolVersion", "protocol_version") or "1.0",
        )
    if listed:
        return
    version = _text(value, "protocolVersion") or A2A_OLDEST
    url = _url(value, "url")
    if url:
        yield Interface(url=url, binding=_text(value, "preferredTransport") or "JSONRPC", version=version)
    for index, entry in enumerate(_list(value, "additionalInterfaces")):
        if isinstance(entry, dict) and (more := _url(entry, "url", f"additionalInterfaces[{index}]")):
            yield Interface(url=more, binding=_text(entry, "transport") or "JSONRPC", version=version)


def _skills(holder: dict[str, Any], place: str) -> Iterator[Skill]:
    listed = _list(holder, place.rpartition(".")[2])
    if len(listed) > SKILLS_MAX:
        raise BadRequest(f"card.{place} has {len(listed)} entries, over the limit of {SKILLS_MAX}")
    for index, entry in enumerate(listed):
        at = f"{place}[{index}]"
        if isinstance(entry, str):
            entry = {"name": entry}
        if not isinstance(entry, dict):
            raise BadRequest(f"card.{at} must be an object")
        skill_id = _text(entry, "id", most=NAME_CHARS_MAX, place=at)
        name = _text(entry, "name", most=NAME_CHARS_MAX, place=at)
        yield Skill(
            id=_required(skill_id or name, f"{at}.name"),
            name=name or skill_id,
            description=_text(entry, "description", place=at),
            input_schema=_schema(entry, "input_schema", "inputSchema", place=at),
            output_schema=_schema(entry, "output_schema", "outputSchema", place=at),
            tags=tuple(_texts(entry, "tags", f"{at}.tags")),
        )


# --- the fields -----------------------------------------------------------------------------------


def _required(text: str, place: str) -> str:
    if not text:
        raise BadRequest(f"card.{place} is required")
    return text


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _text(value: dict[str, Any], *names: str, most: int = TEXT_CHARS_MAX, place: str = "") -> str:
    found = _first(value, names)
    at = f"{place}.{names[0]}" if place else names[0]
    if found is None:
        return ""
    if not isinstance(found, str):
        raise BadRequest(f"card.{at} must be a text")
    if len(found) > most:
        raise BadRequest(f"card.{at} has {len(found)} characters, over the limit of {most}")
    return found


def _id(value: dict[str, Any]) -> str:
    found = _first(value, ("id", "agent_id"))
    text = str(found) if isinstance(found, int) and not isinstance(found, bool) else found
    if text is not None and not isinstance(text, str):
        raise BadRequest("card.id must be a text")
    return _checked_id(text or "")


def _checked_id(text: str) -> str:
    if len(text) > NAME_CHARS_MAX:
        raise BadRequest(f"card.id has {len(text)} characters, over the limit of {NAME_CHARS_MAX}")
    if not text.isprintable() or text.strip() != text or "/" in text:
        raise BadRequest(f"card.id {text[:40]!r} must be printable, without '/' and without blanks around it")
    if text in _RESERVED:
        raise BadRequest(f"card.id {text!r} is the name of a route")
    return text


def _url(value: dict[str, Any], name: str, place: str = "") -> str:
    text = _text(value, name, most=URL_CHARS_MAX, place=place)
    at = f"{place}.{name}" if place else name
    if text and (not text.isprintable() or not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text)):
        raise BadRequest(f"card.{at} {text[:80]!r} is no url")
    return text


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadRequest(f"card.{name} must be an object")
    return found


def _list(value: dict[str, Any], *names: str) -> list[Any]:
    found = _first(value, names)
    if found is None:
        return []
    if not isinstance(found, list):
        raise BadRequest(f"card.{names[0]} must be a list")
    if len(found) > LISTED_MAX:
        raise BadRequest(f"card.{names[0]} has {len(found)} entries, over the limit of {LISTED_MAX}")
    return found


def _texts(value: dict[str, Any], name: str, place: str) -> list[str]:
    found = _list(value, name)
    if not all(isinstance(item, str) and len(item) <= NAME_CHARS_MAX for item in found):
        raise BadRequest(f"card.{place} must be a list of texts of at most {NAME_CHARS_MAX} characters")
    return list(dict.fromkeys(found))


def _schema(value: dict[str, Any], *names: str, place: str) -> Schema | None:
    found = _first(value, names)
    if found is None or isinstance(found, dict | str):
        return found
    raise BadRequest(f"card.{place}.{names[0]} must be an object or a text")


def _labels(value: dict[str, Any]) -> dict[str, str]:
    labels = {
        name: item if isinstance(item, str) else msgspec.json.encode(item).decode()
        for name, item in _object(value, "labels").items()
        if item is not None
    }
    # It is indexed, and what PostgreSQL indexes is bounded.
    _text(labels, "trust_domain", most=NAME_CHARS_MAX, place="labels")
    return labels
