"""Benchmarks: each measures one promise on generated or real input and prints its figures.

The pipeline imports nothing from here. A benchmark returns a `figures.Report`; the commands are in
`sluice.cli.bench`.
"""
