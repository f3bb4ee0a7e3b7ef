"""One script for each entry point of MLproject; the commands themselves are in `nanogpt/commands/`."""
