"""``python -m lvscore``: the command line."""

from lvscore.cli import main

if __name__ == "__main__":
    main()
