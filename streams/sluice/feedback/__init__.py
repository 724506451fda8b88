"""How results rewrite the rules: policy versions, corrections, scorecards, reconciliation.

Pure logic only.
"""
