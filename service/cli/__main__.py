"""python -m service.cli: the same as `copyist`, where nothing is installed."""

from service.cli.main import main

if __name__ == "__main__":
    main()
