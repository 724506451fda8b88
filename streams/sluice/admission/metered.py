"""Calls and tool calls of a gateway or agent, each opened on a verdict and metered to its end.

    metered = Metered(point, emitter)
    with metered.call(request, provider_name="openai", stream=True) as call:
        call.sent(body)
        for chunk in call.wrap_stream(upstream):
            ...
        call.usage(input_tokens=1200, output_tokens=300)

Handles say what belongs where: what is opened through a call or tool call is its child, what is
opened through a task is a root of it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, Self

from uuid_utils import uuid7

from sluice.admission.handed import checked
from sluice.admission.hashing import content_hash
from sluice.admission.opening import Means, Opening, Place, admitted, fields_of, steady_clock
from sluice.admission.operation import Operation
from sluice.admission.outcomes import Slo
from sluice.admission.point import wall_clock
from sluice.admission.reporting import Emitter
from sluice.admission.reservation import Reservation
from sluice.admission.verdict import AdmissionRequest, Verdict, tool_request

_MODEL_TYPES = ("inference", "embedding")


class Admits(Protocol):
    """Answers questions, like AdmissionPoint."""

    def admit(self, request: AdmissionRequest) -> Verdict:
        """Decide about one request."""


class _Opens(ABC):
    """Opens calls of models; admission is asked first, and Refused carries what it said."""

    _means: Means

    @abstractmethod
    def _inside(self) -> Place:
        """Where things are that are opened here."""

    def call(
        self, request: AdmissionRequest, *, provider_name: str, operation_name: str = "chat",
        event_type: str = "inference", verdict: Verdict | None = None,
        reservation: Reservation | None = None, slo_ttft_us: int | None = None,
        slo_latency_us: int | None = None, **facts: Any,
    ) -> Call:  # fmt: skip
        """Open a call of a model.

        `verdict` is what admission said, if it was asked already, and `reservation` what it
        reserved: an async gateway awaits `reserve_async` first. The call's own `request` has the
        model, pool and limits that it must run with. The `slo_` targets are µs from
        admission; without any, quality is not judged. `facts` are further fields of UsageEvent that
        are known now (stream, conversation_id, trace_id, deployment_id, ...).
        """
        if event_type not in _MODEL_TYPES:
            raise ValueError(f"event_type is inference or embedding, not {event_type!r}")
        facts |= {"provider_name": provider_name, "operation_name": operation_name}
        own, slo = {"event_type": event_type}, Slo(slo_ttft_us, slo_latency_us)
        means = self._means
        if reservation is not None:
            means = means._replace(reserve=lambda *_: reservation)
        return Call(self._means, self._opening(means, request, verdict, slo, facts, own))

    def _opening(
        self, means: Means, request: AdmissionRequest, verdict: Verdict | None, slo: Slo,
        facts: Mapping[str, Any], own: Mapping[str, Any],
    ) -> Opening:  # fmt: skip
        given, place = checked(facts), self._inside()
        request, verdict, reserved = admitted(means, place.own(request), verdict)
        fields = {**fields_of(request, verdict), **place.fields(), **given, **own}
        if reserved is not None:
            fields |= reserved.fields(fields)
        return Opening(request, verdict, fields, slo, place, itertools.count(2), reserved)


class _OpensTools(_Opens):
    """Opens tool calls too, under the identities of `request`."""

    @property
    @abstractmethod
    def request(self) -> AdmissionRequest:
        """Whose identities tool calls carry."""

    def tool(
        self, name: str, *, tool_type: str | None = None, server: str | None = None,
        call_id: str | None = None, writes: bool | None = None, args: Any = None,
        verdict: Verdict | None = None, slo_latency_us: int | None = None, **facts: Any,
    ) -> ToolCall:  # fmt: skip
        """Open a call of the tool `name`.

        `args` (bytes, or what JSON has) are hashed and not kept; None = not told. `writes` says
        whether the tool changes anything. The rest is as in `call`.
        """
        request = tool_request(self.request, name)
        facts = {
            "operation_name": "execute_tool", "provider_name": "", "tool_type": tool_type,
            "tool_server": server, "tool_call_id": call_id, "tool_writes": writes,
        } | facts  # fmt: skip
        digest = None if args is None else content_hash(args)
        own, slo = {"event_type": "tool", "tool_args_hash": digest}, Slo(latency_us=slo_latency_us)
        means = self._means
        return ToolCall(means, self._opening(means, request, verdict, slo, facts, own))

    def agent(self, agent_name: str) -> Task:
        """A further agent that works here, on the same task."""
        return Task(self._means, self.request, replace(self._inside(), agent_name=agent_name))


class _Step(Operation, _OpensTools):
    """An operation that has children and can be tried again."""

    @property
    def request(self) -> AdmissionRequest:
        """What admission was asked."""
        return self._opened.request

    def _inside(self) -> Place:
        return self._opened.place.below(self.event_id)

    def retry(self, **facts: Any) -> Self:
        """A further attempt after this one failed, to be settled by itself.

        It goes on the same verdict and needs room in hard budgets of its own, or Refused is
        raised; where tries should count against a rate, ask admission first.
        `facts` say what differs, such as request_model.
        """
        return type(self)(self._means, self._opened.again(self._means, "retry", facts))

    def hedge(self, **facts: Any) -> Self:
        """A further attempt beside this one, otherwise as `retry`."""
        return type(self)(self._means, self._opened.again(self._means, "hedge", facts))


class Call(_Step):
    """One call of a model."""


class ToolCall(_Step):
    """One call of a tool."""

    def result(self, value: Any) -> None:
        """Hash the result (bytes, or what JSON has), to see loops; it is not kept."""
        self._note("result_hash", content_hash(value))


class Task(_OpensTools):
    """An agent task, or one agent's part of it: numbers its steps and names them as its own."""

    def __init__(self, means: Means, request: AdmissionRequest, place: Place) -> None:
        self._means = means
        self._place = place
        self._request = place.own(request)

    @property
    def request(self) -> AdmissionRequest:
        """Whose identities tool calls carry."""
        return self._request

    @property
    def task_id(self) -> str | None:
        """Id of the task."""
        return self._request.task_id

    def _inside(self) -> Place:
        return self._place


class Metered(_Opens):
    """Opens calls and tasks on an admission point and emits one usage event for each operation.

    Where the point reserves, each operation holds what hard budgets ask for until it settles. A
    refused request raises Refused, with the verdict. `clock` is µs UTC, `steady` µs that never go
    back.
    """

    def __init__(
        self, point: Admits, emitter: Emitter, *, clock: Callable[[], int] = wall_clock,
        steady: Callable[[], int] = steady_clock,
        new_id: Callable[[], str] = lambda: str(uuid7()),
    ) -> None:  # fmt: skip
        reserve = getattr(point, "reserve", None)
        self._means = Means(point.admit, emitter.emit, clock, steady, new_id, reserve)

    def _inside(self) -> Place:
        return Place()

    def task(
        self, request: AdmissionRequest, *, agent_name: str | None = None,
        workflow_name: str | None = None, parent_event_id: str | None = None, depth: int = 0,
        step: int = 0,
    ) -> Task:  # fmt: skip
        """A handle on the task `request.task_id`, a new one where that is None.

        A process that goes on with another's task says where it stands: the event that led here,
        its depth, and the last `step` taken.
        """
        if depth < 0 or step < 0:
            raise ValueError(f"depth and step are at least 0, not {depth} and {step}")
        place = Place(request.task_id or self._means.new_id(), agent_name, workflow_name,
                      parent_event_id, depth, itertools.count(step + 1))  # fmt: skip
        return Task(self._means, request, place)
