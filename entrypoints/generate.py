"""The entry point `generate` of MLproject."""

from nanogpt.commands.generate import generate

if __name__ == "__main__":
    generate()
