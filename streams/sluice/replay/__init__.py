"""Real traces played through real gateways: readers, gateway processes, the demo and its proof.

`traces` and `formats` read files, `run` starts `gateway` processes, which keep a `ledger`; `proof`
prices the ledgers by itself and compares the sums with ClickHouse; `report` gathers the result,
`spending` what the money went to, and `screen` draws both. `arena` and `airline` are what travels
with the package. `proof` and what it imports must not import `sluice.metering`.
"""
