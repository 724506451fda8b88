"""FOCUS 1.2 export: what usage cost, in the FinOps Foundation's billing format.

Here live the columns, the rows made from stored charges, the file formats and a checker of the
specification's rules; no prices are decided here.
"""
