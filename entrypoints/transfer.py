"""The entry point `transfer` of MLproject."""

from nanogpt.commands.transfer import transfer

if __name__ == "__main__":
    transfer()
