"""The classes of a price book: what each counts, and for how much of it a rate stands.

This is the only table of them. A class is billed as quantity * rate / per, in integers; a division
that leaves a remainder is rounded half even, once per part of an event's cost.

| classes                                   | counted in    | rate in pico-USD for one |
|-------------------------------------------|---------------|--------------------------|
| input ... output_video                    | tokens        | token                    |
| request                                   | calls         | call                     |
| images*, input_images                     | images        | image                    |
| pixels                                    | pixels        | million pixels           |
| *seconds_milli*                           | ms            | second                   |
| characters, pages, queries ...            | those         | character, page, query   |
| web_search ... code_execution, tool_call  | calls         | call                     |
| gpu_us                                    | µs of one GPU | GPU-second               |
| kv_byte_ms                                | byte-ms       | gigabyte-hour            |

KV cache has a rate per gigabyte (10^9 bytes) and hour because memory is priced that way: 0.02 USD
is a whole number of pico-USD per hour, and none per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class RateClass(NamedTuple):
    """How a class is counted and priced; `shown_for` units are what people read a price of."""

    unit: str
    per: int
    shown: str
    shown_for: int


_TOKENS = RateClass("tokens", 1, "million tokens", 1_000_000)
_CALLS = RateClass("calls", 1, "call", 1)
_IMAGES = RateClass("images", 1, "image", 1)
_DURATION = RateClass("ms", 1000, "second", 1000)

# Disjoint: `input` is uncached, `output` is without reasoning, `cache_write` lives for the
# provider's default time (5 minutes where there are several).
TOKEN_CLASSES: tuple[str, ...] = (
    "input", "cache_read", "cache_write", "cache_write_3600", "cache_write_43200",
    "input_audio", "input_image", "input_video", "cache_read_audio", "cache_read_image",
    "cache_write_audio", "output", "reasoning", "output_audio", "output_image", "output_video",
)  # fmt: skip

_RESOLUTIONS = ("480p", "720p", "768p", "1080p", "2k", "4k")

# Keys of an event's `units`: a closed set, other keys have no price. Images, pixels and video
# seconds are generated ones, unless the name says input; `seconds_milli` is the length of audio
# or of a session, `messages` are those of a realtime session, `credits` the provider's own.
UNIT_CLASSES: Mapping[str, RateClass] = MappingProxyType({
    **dict.fromkeys(("images", "images_512", "images_1k", "images_2k", "images_4k",
                     "input_images"), _IMAGES),
    "pixels": RateClass("pixels", 1_000_000, "million pixels", 1_000_000),
    **dict.fromkeys(("seconds_milli", "input_audio_seconds_milli", "input_video_seconds_milli",
                     "video_seconds_milli"), _DURATION),
    **dict.fromkeys((f"video_seconds_milli_{r}" for r in _RESOLUTIONS), _DURATION),
    "characters": RateClass("characters", 1, "million characters", 1_000_000),
    "output_characters": RateClass("characters", 1, "million characters", 1_000_000),
    "pages": RateClass("pages", 1, "page", 1),
    "annotated_pages": RateClass("pages", 1, "page", 1),
    "queries": RateClass("queries", 1, "query", 1),
    "messages": RateClass("messages", 1, "message", 1),
    "credits": RateClass("credits", 1, "credit", 1),
})  # fmt: skip

# Keys of an event's `server_tool_requests`, a closed set too. A web search has a price by the
# amount of context it brings; `web_search` is the medium one.
SERVER_TOOL_CLASSES: tuple[str, ...] = (
    "web_search", "web_search_low", "web_search_high", "web_fetch", "google_maps", "file_search",
    "code_interpreter", "code_execution",
)  # fmt: skip

# `request` is a fee per inference or embedding call, `tool_call` one per call of a tool.
CLASSES: Mapping[str, RateClass] = MappingProxyType({
    **dict.fromkeys(TOKEN_CLASSES, _TOKENS),
    "request": _CALLS,
    **UNIT_CLASSES,
    **dict.fromkeys(SERVER_TOOL_CLASSES, _CALLS),
    "tool_call": _CALLS,
    "gpu_us": RateClass("µs", 1_000_000, "GPU-second", 1_000_000),
    "kv_byte_ms": RateClass("byte-ms", 10**9 * 3_600_000, "GB-hour", 10**9 * 3_600_000),
})  # fmt: skip

# Names of all priced classes, in the order in which parts of a cost stand.
RATE_CLASSES: tuple[str, ...] = tuple(CLASSES)

# Key of the part of a cost that no class explains; it has no rate.
UNCLASSIFIED = "unclassified"

# The fields of an event that are measured after the fact, by attribution.
MEASURED_CLASSES: tuple[str, ...] = ("gpu_us", "kv_byte_ms")

# Whose rate stands in where an entry has none. Every use is named in `RateCard.assumed`.
STAND_IN: Mapping[str, str] = MappingProxyType({
    "cache_read": "input",
    "cache_write": "input",
    "cache_write_3600": "cache_write",
    "cache_write_43200": "cache_write",
    "input_audio": "input",
    "input_image": "input",
    "input_video": "input",
    "cache_read_audio": "cache_read",
    "cache_read_image": "cache_read",
    "cache_write_audio": "cache_write",
    "output_audio": "output",
    "output_image": "output",
    "output_video": "output",
    **{name: "images" for name in UNIT_CLASSES if name.startswith("images_")},
    **{name: "video_seconds_milli" for name in UNIT_CLASSES
       if name.startswith("video_seconds_milli_")},
    "web_search_low": "web_search",
    "web_search_high": "web_search",
})  # fmt: skip
