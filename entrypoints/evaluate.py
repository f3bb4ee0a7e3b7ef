"""The entry point `evaluate` of MLproject."""

from nanogpt.commands.evaluate import evaluate

if __name__ == "__main__":
    evaluate()
