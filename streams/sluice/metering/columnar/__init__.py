"""The metering room for many events at once: numpy columns in, numpy columns out.

Each function decides the common cases for all rows together and says which rows it left open; for
those the function for one event is asked. Where both answer, they answer the same.
"""
