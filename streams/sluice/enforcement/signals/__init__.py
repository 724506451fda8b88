"""What is measured of a scope and held against a policy: burn, loops, neighbours, jitter, drift.

Pure and whole-numbered: sums in, a `Signal` out; shares and multiples are parts per million.
Nothing here decides anything: `ladder` does.
"""
