"""The report of one compression: sizes, errors, agreement, curves and time; JSON, terminal tables, a web page."""

from lloydmax.report.figures import BeforeAfter, Stage
from lloydmax.report.layers import Histogram, LayerReport, layer_reports
from lloydmax.report.machine import environment
from lloydmax.report.report import Report

__all__ = ["BeforeAfter", "Histogram", "LayerReport", "Report", "Stage", "environment", "layer_reports"]
