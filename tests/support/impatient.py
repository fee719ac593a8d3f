"""`overworld` with an env server that ends when a worker cannot be replaced for 2 s, instead of 60."""

from overworld.cli import main
from overworld.host import pool

if __name__ == "__main__":
    pool._REPLACE_SECONDS = 2.0
    main()
