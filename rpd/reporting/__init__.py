"""HTML reports, charts and tables made from run folders."""
