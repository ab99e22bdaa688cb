"""`python -m gpuscout`: the command line."""

from gpuscout.runner.cli.main import main

if __name__ == "__main__":
    main()
