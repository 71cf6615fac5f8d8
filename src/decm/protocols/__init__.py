"""What `evaluation.protocol` can be: the judge, the painter and the exact maps of a kind of data."""
