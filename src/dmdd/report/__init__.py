"""Results of many runs: found, averaged over seeds, and written as tables and as one page.

``collect(paths)`` gives the finished runs below some folders, ``summary_table(results)`` a table of ``result.json``
entries for the terminal. Neither needs torch.
"""

from dmdd.report.collect import Run, collect, scan
from dmdd.report.terminal import summary_table

__all__ = ["Run", "collect", "scan", "summary_table"]
