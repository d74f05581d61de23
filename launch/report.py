"""Tables and figures of runs: `python launch/report.py runs --output report`."""

from autosparse.cli import start

if __name__ == "__main__":
    start("report")
