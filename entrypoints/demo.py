"""The entry point `demo` of MLproject."""

from nanogpt.commands.demo import demo

if __name__ == "__main__":
    demo()
