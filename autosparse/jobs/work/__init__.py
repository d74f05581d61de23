"""What the runs do; imported by what runs them, not by what submits them, as PyTorch takes seconds to import."""
