"""Where criteria stand at equal cost: `python launch/board.py run --track lenet`, `python launch/board.py show`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("board")
