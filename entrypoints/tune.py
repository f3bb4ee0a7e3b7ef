"""The entry point `tune` of MLproject."""

from nanogpt.commands.tune import tune

if __name__ == "__main__":
    tune()
