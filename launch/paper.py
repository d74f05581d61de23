"""Whole experiments by name: `python launch/paper.py table2 --scale small`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("paper")
