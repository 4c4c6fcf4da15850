"""The report of one compression: sizes, errors, agreement, curves and time; JSON, terminal tables, a web page."""

from lloydmax.report.layers import Histogram, LayerReport, layer_reports
from lloydmax.report.machine import environment
from lloydmax.report.report import BeforeAfter, Report, Stage

__all__ = ["BeforeAfter", "Histogram", "LayerReport", "Report", "Stage", "environment", "layer_reports"]
