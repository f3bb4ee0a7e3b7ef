"""The entry point `train` of MLproject."""

from nanogpt.commands.train import train

if __name__ == "__main__":
    train()
