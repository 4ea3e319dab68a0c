"""`python -m rpd VERB ...`: the command line without its console script."""

import sys

from rpd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
