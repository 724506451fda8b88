"""What may still be used: policies, budget ledgers, signals and ladders, and the decisions of them.

Pure functions: state in, state and decisions out. Nothing here knows Kafka or a clock.
"""
