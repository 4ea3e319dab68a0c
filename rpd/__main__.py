"""`python -m rpd VERB ...`: the command line without its console script."""

from rpd.cli.main import run

if __name__ == "__main__":
    run()
