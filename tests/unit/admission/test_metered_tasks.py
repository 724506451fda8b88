"""Further attempts, tool calls and tasks, and admission before each of them."""

from __future__ import annotations

import pytest
from tests.unit.admission.messages import decision
from tests.unit.admission.metering import CHAT, Bench

from sluice.admission.verdict import AdmissionRequest, Refused


def test_further_attempts_are_calls_of_their_own(bench: Bench) -> None:
    """Attempts count on from wherever they are opened, with ids and bytes of their own."""
    task = bench.metered.task(CHAT, agent_name="a")
    first = task.call(CHAT, provider_name="openai")
    hedge = first.hedge(deployment_id="d2")
    first.received(9)
    retry = hedge.retry(request_model="m2")
    for call in (retry, first, hedge):
        call.finish()
    names = ("attempt", "attempt_kind", "step", "request_model", "deployment_id", "net_in_bytes")
    told = {e["event_id"]: tuple(e.get(name) for name in names) for e in bench.sent}
    assert told == {
        first.event_id: (None, None, 1, "m1", None, 9),
        hedge.event_id: (2, "hedge", 1, "m1", "d2", None),
        retry.event_id: (3, "retry", 1, "m2", "d2", None),
    }


def test_a_refused_request_opens_nothing() -> None:
    """Refused carries the verdict; no event is emitted and no step taken."""
    bench = Bench((decision(),))
    task = bench.metered.task(CHAT)
    for open_call in (lambda: bench.call(), lambda: task.tool("search")):
        with pytest.raises(Refused, match="acme has spent") as caught:
            open_call()
        assert caught.value.verdict.decision_id == "id-block"
    assert not bench.sent
    assert next(task._place.steps) == 1


def test_the_decision_in_force_goes_into_the_event() -> None:
    """Decision, policy version and the cap on the output are those of the verdict."""
    bench = Bench((decision("allow_with_caps", params={"max_tokens": 200}),))
    with bench.call() as call:
        assert call.verdict.caps.max_tokens == 200
    event = bench.event
    assert (event["decision_id"], event["policy_version"], event["max_output_tokens"]) == (
        "id-allow_with_caps", "v1", 200,
    )  # fmt: skip


def test_a_verdict_in_hand_is_not_asked_for_again() -> None:
    """A call opened on a verdict does not go to the admission point."""
    bench = Bench((decision(),))
    free = Bench()
    verdict = free.metered._means.admit(CHAT)
    with bench.metered.call(CHAT, provider_name="x", verdict=verdict):
        pass
    assert bench.event["outcome"] == "ok"


def test_a_denied_tool_is_refused() -> None:
    """A tool call is a question of its own: a denied tool does not run, another does."""
    bench = Bench((decision("allow_with_caps", params={"tool_denylist": ["rm"]}),))
    call = bench.call()
    with pytest.raises(Refused):
        call.tool("rm")
    call.tool("ls").finish()
    assert bench.event["tool_name"] == "ls"


def test_a_tool_call_tells_all_but_its_content(bench: Bench) -> None:
    """Names, hashes and bytes are there; arguments and result are not."""
    call = bench.call()
    tool = call.tool("search", tool_type="function", server="mcp-1", call_id="c1", writes=False,
                     args={"q": "secret", "n": 3})  # fmt: skip
    with tool:
        tool.read(10)
        tool.sent(20)
        tool.result(["secret"])
        bench.after(5)
    event = bench.event
    assert {name: event[name] for name in (
        "event_type", "tool_name", "tool_type", "tool_server", "tool_call_id", "tool_writes",
        "operation_name", "request_model", "io_read_bytes", "net_out_bytes", "latency_us",
        "parent_event_id", "depth", "step", "estimated_cost_pusd", "max_output_tokens",
    )} == {
        "event_type": "tool", "tool_name": "search", "tool_type": "function",
        "tool_server": "mcp-1", "tool_call_id": "c1", "tool_writes": False,
        "operation_name": "execute_tool", "request_model": "", "io_read_bytes": 10,
        "net_out_bytes": 20, "latency_us": 5, "parent_event_id": call.event_id, "depth": 1,
        "step": 0, "estimated_cost_pusd": None, "max_output_tokens": None,
    }  # fmt: skip
    assert all(len(event[name]) == 16 for name in ("tool_args_hash", "result_hash"))
    assert "secret" not in repr(event)


def test_a_tool_without_known_arguments_has_no_hash(bench: Bench) -> None:
    """Arguments that were not told are null; no arguments at all are something else."""
    call = bench.call()
    call.tool("a").finish()
    call.tool("a", args={}).finish()
    first, second = bench.sent
    assert first["tool_args_hash"] is None
    assert second["tool_args_hash"] is not None


def test_a_task_numbers_its_steps_and_nests_its_calls(bench: Bench) -> None:
    """Steps run through the whole task; parent and depth follow the handles."""
    task = bench.metered.task(CHAT, agent_name="planner", workflow_name="w")
    call = task.call(CHAT, provider_name="openai")
    tool = call.tool("research")
    inner = tool.agent("researcher").call(CHAT, provider_name="openai")
    late = task.tool("save", writes=True)
    for operation in (call, tool, inner, late):
        operation.finish()
    told = [(e["event_id"], e["step"], e["depth"], e["parent_event_id"], e["agent_name"])
            for e in bench.sent]  # fmt: skip
    assert told == [
        (call.event_id, 1, 0, None, "planner"), (tool.event_id, 2, 1, call.event_id, "planner"),
        (inner.event_id, 3, 2, tool.event_id, "researcher"), (late.event_id, 4, 0, None, "planner"),
    ]  # fmt: skip
    assert {(e["task_id"], e["workflow_name"]) for e in bench.sent} == {(task.task_id, "w")}


def test_a_task_asks_admission_under_its_id() -> None:
    """A decision about the task meets its calls, also where their request names no task."""
    bench = Bench((decision(scope={"task_id": "t1"}),))
    task = bench.metered.task(AdmissionRequest("acme", "chat", task_id="t1"))
    with pytest.raises(Refused):
        task.call(CHAT, provider_name="x")
    bench.call().finish()


def test_another_process_goes_on_with_a_task(bench: Bench) -> None:
    """Told where it stands, a handle numbers on from there."""
    task = bench.metered.task(CHAT, parent_event_id="up", depth=2, step=5)
    task.tool("t").finish()
    event = bench.event
    assert (event["parent_event_id"], event["depth"], event["step"]) == ("up", 2, 6)
    with pytest.raises(ValueError, match="at least 0"):
        bench.metered.task(CHAT, depth=-1)


def test_only_models_are_called(bench: Bench) -> None:
    """Another event type than inference or embedding is refused."""
    bench.call(event_type="embedding").finish()
    assert bench.event["event_type"] == "embedding"
    with pytest.raises(ValueError, match="inference or embedding"):
        bench.call(event_type="tool")
