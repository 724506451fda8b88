"""What providers and gateways report, made into usage events: one module per source.

Adapters are pure and light enough for a gateway: mappings (parsed JSON) in, the fields of a
UsageEvent out, ready for `UsageEmitter.emit`. Text of prompts, answers, arguments and errors never
passes; people are hashed. No I/O, no clock, no clients of providers live here.
"""

from sluice.metering.adapters.anthropic_messages import from_anthropic_messages
from sluice.metering.adapters.attribution import Attribution
from sluice.metering.adapters.context import GATEWAY_FIELDS, CallContext, context_of
from sluice.metering.adapters.lines import FORMATS, line_adapter
from sluice.metering.adapters.litellm_log import LITELLM_ATTRIBUTION, from_litellm
from sluice.metering.adapters.openai_chat import from_openai_chat
from sluice.metering.adapters.openai_responses import from_openai_responses
from sluice.metering.adapters.otel_attributes import spans_of
from sluice.metering.adapters.otel_span import OTEL_ATTRIBUTION, from_otel_span
from sluice.metering.adapters.reading import AdapterError, content_hash, hashed
from sluice.metering.adapters.tokens import TokenCounts, disjoint

__all__ = [
    "FORMATS", "GATEWAY_FIELDS", "LITELLM_ATTRIBUTION", "OTEL_ATTRIBUTION", "AdapterError",
    "Attribution", "CallContext", "TokenCounts", "content_hash", "context_of", "disjoint",
    "from_anthropic_messages", "from_litellm", "from_openai_chat", "from_openai_responses",
    "from_otel_span", "hashed", "line_adapter", "spans_of",
]  # fmt: skip
