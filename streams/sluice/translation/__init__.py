"""From intent to execution plan: route, cache strategy, caps and fallbacks of a request.

Pure logic only; the execution plan's wire format lives in `schemas/`.
"""
