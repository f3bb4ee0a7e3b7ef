"""The command line: one command for each entry point."""
