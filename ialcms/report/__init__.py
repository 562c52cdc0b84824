"""The report of an evaluation: one self-contained HTML file to judge a separator by ear and eye."""

from ialcms.report.page import Example, Figure, Interval, Source, Table, write_report

__all__ = ["Example", "Figure", "Interval", "Source", "Table", "write_report"]
