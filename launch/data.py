"""Get a data set: `python launch/data.py --dataset cifar10 --data-root data`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("data")
