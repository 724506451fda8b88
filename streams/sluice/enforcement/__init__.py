"""What may still be used: policies, budget ledgers and the decisions they lead to.

Pure functions: state in, state and decisions out. Nothing here knows Kafka or a clock.
"""
