"""python -m model train | evaluate | sample | bench: train a network, measure it, look at what it writes."""

from model.cli.main import app

if __name__ == "__main__":
    app()
