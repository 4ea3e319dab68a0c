"""One module per verb: parse, call the library, print. Nothing imports this package."""
