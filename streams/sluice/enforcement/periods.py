"""Calendar periods of budgets; they live in `sluice.periods`, where admission finds them too."""

from sluice.periods import PERIOD_KINDS, Period, PeriodKind, period_of

__all__ = ["PERIOD_KINDS", "Period", "PeriodKind", "period_of"]
