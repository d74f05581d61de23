"""Callbacks that hold a mask in the trainers of other libraries; each needs the extra of its name."""
