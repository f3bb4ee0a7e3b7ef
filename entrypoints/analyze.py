"""The entry point `analyze` of MLproject."""

from nanogpt.commands.analyze import analyze

if __name__ == "__main__":
    analyze()
