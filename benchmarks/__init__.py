"""One file a question, each against peers in the same run: `python -m benchmarks.NAME`. Results: RESULTS.md."""
