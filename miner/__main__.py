"""`python -m miner` is the command line."""

from miner.cli.main import main

if __name__ == "__main__":
    main()
