"""The command line: one command for each entry point.

A command imports what it runs when it runs: `--help` and an option that is not there are answered at once.
"""
