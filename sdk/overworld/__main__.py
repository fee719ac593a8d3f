"""`python -m overworld` is the command `overworld`."""

from overworld.cli import main

if __name__ == "__main__":
    main()
