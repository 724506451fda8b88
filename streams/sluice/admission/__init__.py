"""What a gateway embeds: admission points that answer locally and say why.

Pure logic but for `subscriber`, the one edge that follows the control topic. No Faust, no
ClickHouse, nothing that a light gateway would not want to load.

    with follow(settings, "gateway-1", emitter) as point:
        with point.reserve(AdmissionRequest("acme", "chat", "m1", estimated_cost_pusd=9)) as held:
            ... run held.request, stop when held.stop ...
            held.commit(input_tokens=1200, output_tokens=300)

`admit` answers by decisions alone. `reserve` carries their actions out (another model or pool, a
queue, fewer tokens, a stop) and holds an amount of every hard budget under the leases of this
process, all or nothing; `reserve_async` does it without holding up an event loop. A reservation
settles once, whatever happens to its block. `desk_options` has the price function and the place
(`holder_slot`) whose leases a successor closes; `http` makes answers of refusals.

`metered` opens calls, tool calls and tasks on such reservations, counts what they move and emits
one usage event at the end of each; `operation` has the rules.

A gateway that cannot see to a condition (degrade, queue, isolate, caps) leaves it out of
`carries_out`, and decisions that need it refuse. Each process counts rate limits by itself, so the
rate of a decision is per admission point.
"""
