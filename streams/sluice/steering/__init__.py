"""What people ask of enforcement and tell it: standing decisions, ledgers, policy versions.

Modules that read or publish say so; the others are pure. The control topic and the ledgers' rows
are enough for every answer: ClickHouse adds history where it is there. Nothing here decides.
"""
