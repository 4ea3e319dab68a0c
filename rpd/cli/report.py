"""`rpd report`: an HTML report of runs, and a figure and a table for a paper."""

from __future__ import annotations

from rpd.cli.options.report import ReportOptions
from rpd.reporting import paper
from rpd.reporting.run_report import write


def main(options: ReportOptions) -> int:
    """Write the files, and print their paths; returns the exit code."""
    draw = None if options.figure is None else paper.figure_of(options.runs)
    table = None if options.csv is None else paper.table_of(options.runs)
    print(write(options.runs, options.out))
    if options.figure is not None and draw is not None:
        print(paper.save_figure(draw, options.figure))
    if options.csv is not None and table is not None:
        print(paper.save_table(table, options.csv))
    return 0
