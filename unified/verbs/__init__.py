"""The verbs of the command line; `unified.cli` puts them together."""
