"""The entry point `adapt` of MLproject."""

from nanogpt.commands.adapt import adapt

if __name__ == "__main__":
    adapt()
