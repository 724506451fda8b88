"""What crosses a boundary: Avro codec, topics, keys, framing, the usage emitter.

Knows Kafka clients and Avro; knows nothing of metering, budgets or storage.
"""
