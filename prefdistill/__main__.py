"""`python -m prefdistill`."""

from prefdistill.cli import main

if __name__ == "__main__":
    main()
