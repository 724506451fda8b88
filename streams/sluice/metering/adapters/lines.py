"""Which adapter reads which format, and what one line of it looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sluice.errors import ConfigError
from sluice.metering.adapters.anthropic_messages import from_anthropic_messages
from sluice.metering.adapters.attribution import Attribution
from sluice.metering.adapters.context import CallContext, context_of
from sluice.metering.adapters.litellm_log import LITELLM_ATTRIBUTION, from_litellm
from sluice.metering.adapters.openai_chat import from_openai_chat
from sluice.metering.adapters.openai_responses import from_openai_responses
from sluice.metering.adapters.otel_span import OTEL_ATTRIBUTION, from_otel_span
from sluice.metering.adapters.reading import AdapterError, section

Adapt = Callable[[Mapping[str, Any]], dict[str, Any]]
FromResponse = Callable[[Any, CallContext], dict[str, Any]]

# Formats whose payload needs a context: lines are {"context": {...}, "response": {...} or [...]}.
RESPONSES: Mapping[str, FromResponse] = MappingProxyType({
    "openai-chat": from_openai_chat,
    "openai-responses": from_openai_responses,
    "anthropic-messages": from_anthropic_messages,
})  # fmt: skip
# Formats whose payload knows its times and owner: lines are the payload itself.
RECORDS: Mapping[str, tuple[Callable[..., dict[str, Any]], Attribution]] = MappingProxyType(
    {
        "litellm": (from_litellm, LITELLM_ATTRIBUTION),
        "otel": (from_otel_span, OTEL_ATTRIBUTION),
    }
)
FORMATS = (*RESPONSES, *RECORDS)


def line_adapter(format: str, *, tenant_attribute: str | None = None,
                 project_attribute: str | None = None, salt: bytes = b"") -> Adapt:  # fmt: skip
    """What turns a line's object into a usage event; attributes of None are the format's own.

    Raises ConfigError for an unknown format, and for attributes of a format that has none.
    """
    if format in RECORDS:
        adapt, usual = RECORDS[format]
        attribution = Attribution(
            tenant_attribute or usual.tenant, project_attribute or usual.project
        )
        return lambda line: adapt(line, attribution=attribution, salt=salt)
    if format not in RESPONSES:
        raise ConfigError(f"format is one of {', '.join(FORMATS)}, not {format!r}")
    if tenant_attribute or project_attribute:
        raise ConfigError(f"lines of {format} name tenant and project in their context")
    return lambda line: _from_response(RESPONSES[format], line, salt)


def _from_response(adapt: FromResponse, line: Mapping[str, Any], salt: bytes) -> dict[str, Any]:
    response = line.get("response")
    if not isinstance(response, Mapping | list):
        raise AdapterError("missing_field", "a line is {context: {...}, response: {...} or [...]}")
    return adapt(response, context_of(section(line, "context"), salt))
