"""The entry point `main` of MLproject."""

from nanogpt.commands.study import study

if __name__ == "__main__":
    study()
