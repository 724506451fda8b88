"""The one-machine stack: Apache Kafka from its jars, ClickHouse, workers, one supervisor.

`specs` says what a stack consists of and has `up`, `down` and `status`; `supervisor` keeps the
processes running; `stack` knows the folder; `kafka` is the broker, from `jars` and `java`. Nothing
here looks into an event, and nothing outside imports it except the command line, the replay and
the tests: production runs the same workers without it.
"""
