"""`python -m nanogpt`: the program `nanogpt`, in the form that torch's launcher starts."""

from nanogpt.commands.app import main

if __name__ == "__main__":
    main(prog_name="nanogpt")
