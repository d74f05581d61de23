"""Prune at initialization and train: `python launch/prune.py --criteria snip runs/autos/NAME --sparsities 0.9 0.99`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("prune")
