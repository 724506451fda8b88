"""Sluice meters AI workloads and enforces their budgets while they run.

Five rooms hold the logic, one per standard: `admission`, `translation`, `metering`,
`enforcement`, `feedback`. `wire` is what crosses a boundary, `runtime` the only place that knows
Faust, `warehouse` the only one that knows ClickHouse, `local` the one-machine stack.
"""

__version__ = "0.1.0"
