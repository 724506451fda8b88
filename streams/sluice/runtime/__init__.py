"""The only place that knows Faust: chunk consumer, partition checkpoint, worker processes.

Applications in `apps` are short loops: take a chunk, call the room, hand over what changed.
"""
