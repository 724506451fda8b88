"""What a gateway embeds: admission points that answer locally and say why.

Pure logic but for `subscriber`, the one edge that follows the control topic. No Faust, no
ClickHouse, nothing that a light gateway would not want to load.

    with follow(settings, "gateway-1", emitter) as point:
        verdict = point.admit(AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=9))

`metered` opens calls, tool calls and tasks on such verdicts, counts what they move and emits one
usage event at the end of each; `operation` has the rules.

`allowed` goes with `caps`: a gateway that cannot see to a condition (degrade, queue, isolate, caps)
leaves it out of `carries_out`, and decisions that need it refuse. Each process counts rate limits
by itself, so the rate of a decision is per admission point.
"""
