"""The entry point `report` of MLproject."""

from nanogpt.commands.report import report

if __name__ == "__main__":
    report()
