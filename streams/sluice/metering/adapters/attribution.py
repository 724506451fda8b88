"""Where payloads that carry times and owners themselves say whose usage it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sluice.metering.adapters.reading import AdapterError, label


class Attribution(NamedTuple):
    """Names of the attributes that hold tenant and project.

    They have to be attributes that the gateway sets; one that clients set lets them spend for
    others.
    """

    tenant: str
    project: str

    def owners(self, attributes: Mapping[str, Any]) -> tuple[str, str]:
        """Tenant and project; AdapterError "missing_field" where one is absent."""
        tenant = _owner(attributes, "tenant", self.tenant)
        return tenant, _owner(attributes, "project", self.project)


def _owner(attributes: Mapping[str, Any], what: str, name: str) -> str:
    found = label(attributes, name)
    if found is None:
        raise AdapterError("missing_field", f"no {what}: {name} is absent; name another attribute")
    return found


class DottedPaths(Mapping[str, Any]):
    """A payload whose nested fields are reached under dotted names, as `metadata.team_id`."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._payload = payload

    def __getitem__(self, path: str) -> Any:
        value: Any = self._payload
        for name in path.split("."):
            if not isinstance(value, Mapping):
                raise KeyError(path)
            value = value[name]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._payload)

    def __len__(self) -> int:
        return len(self._payload)
