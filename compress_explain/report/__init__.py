"""The report: one HTML file that says what was taken out, what that did, to whom, and what was put back."""

from compress_explain.report.page import render_report

__all__ = ["render_report"]
