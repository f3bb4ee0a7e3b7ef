"""The entry point `registry` of MLproject."""

from nanogpt.commands.registry import registry

if __name__ == "__main__":
    registry()
