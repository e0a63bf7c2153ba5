"""Which layers to convert for a speed or an error: measurements, the plan, its curve in a report."""

from ..conversion.plan import ConversionPlan, Goal, schema
from .run import plan_conversion, plan_of_costs
from .table import plan_table

__all__ = ["ConversionPlan", "Goal", "plan_conversion", "plan_of_costs", "plan_table", "schema"]
