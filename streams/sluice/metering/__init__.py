"""What was used and what it cost: validation, deduplication, rating, windows.

Pure functions over events and state: time is an argument, nothing here does I/O.
"""
