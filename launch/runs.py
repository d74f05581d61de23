"""Watch, stop and resume runs: `python launch/runs.py status|logs|cancel|resume [RUN...]`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("runs")
