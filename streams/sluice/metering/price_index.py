"""Look-up in a price book: the most specific price in force."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from sluice.metering.contracts import Contract
from sluice.metering.rates import Interval, PriceEntry, ToolPrice, holds_at, start_of

# OTel provider name -> the prefix that model keys of LiteLLM and many gateways carry for it.
KEY_PREFIXES: Mapping[str, str] = MappingProxyType({
    "aws.bedrock": "bedrock",
    "azure.ai.inference": "azure_ai",
    "azure.ai.openai": "azure",
    "gcp.gemini": "gemini",
    "gcp.vertex_ai": "vertex_ai",
    "ibm.watsonx.ai": "watsonx",
    "mistral_ai": "mistral",
    "x_ai": "xai",
})  # fmt: skip

_Slot = tuple[str | None, str]
_Entries = dict[_Slot, tuple[PriceEntry, ...]]
_Item = TypeVar("_Item", bound=Interval)


def names_of(provider: str) -> tuple[str, ...]:
    """The names under which events may carry a provider: OTel's and the key prefix."""
    return tuple(dict.fromkeys((provider, KEY_PREFIXES.get(provider, provider))))


class BookIndex:
    """What a price book lists, by the names under which usage asks for it."""

    def __init__(
        self,
        entries: Iterable[PriceEntry],
        tools: Iterable[ToolPrice],
        contracts: Iterable[Contract],
    ) -> None:
        by_tenant: dict[str | None, list[PriceEntry]] = defaultdict(list)
        for entry in entries:
            by_tenant[entry.tenant_id].append(entry)
        self._general = _indexed(by_tenant.pop(None, ()))
        self._own = {tenant: _indexed(own) for tenant, own in by_tenant.items()}
        self._tools: dict[tuple[str | None, ...], list[ToolPrice]] = defaultdict(list)
        for tool in sorted(tools, key=start_of, reverse=True):
            self._tools[tool.tenant_id, tool.tool_name, tool.tool_server].append(tool)
        self._contracts: dict[str, dict[tuple[str | None, ...], list[Contract]]] = {}
        for contract in sorted(contracts, key=start_of, reverse=True):
            of_tenant = self._contracts.setdefault(contract.tenant_id, defaultdict(list))
            for name in names_of(contract.provider) if contract.provider else (None,):
                of_tenant[name, contract.model].append(contract)

    def entry(
        self, model: str, provider: str | None, at: int | None, tenant_id: str | None
    ) -> PriceEntry | None:
        """See PriceBook.find."""
        if self._own and (own := self._own.get(tenant_id)) is not None:
            found = _entry_in(own, model, provider, at)
            if found is not None:
                return found
        return _entry_in(self._general, model, provider, at)

    def tool(
        self, tool_name: str, tool_server: str | None, at: int, tenant_id: str | None
    ) -> ToolPrice | None:
        """See PriceBook.tool."""
        for tenant in dict.fromkeys((tenant_id, None)):
            for name in (tool_name, None):
                for server in dict.fromkeys((tool_server, None)):
                    if found := _in_force(self._tools.get((tenant, name, server), ()), at):
                        return found
        return None

    def contract(
        self, tenant_id: str, provider: str, models: Iterable[str], at: int
    ) -> Contract | None:
        """See PriceBook.contract."""
        of_tenant = self._contracts.get(tenant_id)
        if of_tenant is None:
            return None
        named = [(name, model) for name in (provider, None) for model in models]
        for slot in (*named, (provider, None), (None, None)):
            if found := _in_force(of_tenant.get(slot, ()), at):
                return found
        return None


def _entry_in(
    index: _Entries, model: str, provider: str | None, at: int | None
) -> PriceEntry | None:
    for slot in ((provider, model), (None, model)):
        for entry in index.get(slot, ()):
            if at is None or entry.always or entry.holds_at(at):
                return entry
    return None


def _in_force(items: Iterable[_Item], at: int) -> _Item | None:
    return next((item for item in items if holds_at(item, at)), None)


def _indexed(entries: Iterable[PriceEntry]) -> _Entries:
    exact: dict[_Slot, list[PriceEntry]] = defaultdict(list)
    qualified: dict[_Slot, list[PriceEntry]] = defaultdict(list)
    owners: dict[str, set[str]] = defaultdict(set)
    for entry in sorted(entries, key=start_of, reverse=True):
        if entry.provider is None:
            exact[None, entry.model].append(entry)
            continue
        owners[entry.model].add(entry.provider)
        for name in names_of(entry.provider):
            exact[name, entry.model].append(entry)
            prefix, slash, rest = entry.model.partition("/")
            if slash and prefix in names_of(entry.provider):
                qualified[name, rest].append(entry)
    bare: _Entries = {
        (None, model): tuple(exact[next(iter(providers)), model])
        for model, providers in owners.items()
        if len(providers) == 1
    }
    listed = qualified | exact
    return bare | {slot: tuple(found) for slot, found in listed.items()}
