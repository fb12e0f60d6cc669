"""All tables and figures as one HTML page that opens from disk."""

from feedalign_lab.papers.report.writing import write_report

__all__ = ["write_report"]
