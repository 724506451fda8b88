"""Everything that can go wrong, done to real processes, and the truth to compare with."""
