"""The metering room for many events at once: numpy columns in, numpy columns out.

`usage` is a run of events, `checks`, `dedupe`, `rating`, `labels` and `causes` say of each what
`validate`, `sources`, `rating` and `labels` say of one. Common cases are decided for all rows
together; for the rows that are left open the function for one event is asked. Where both answer,
they answer the same.

`windows`, `tasks` and `cohorts` are what a partition adds up: rows as arrays, found by slots. Next
to each are its layout, its compiled loops and its columns as they are published and stored.
"""
