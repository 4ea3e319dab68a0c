"""Success rates with intervals, suites of tasks, and videos."""
