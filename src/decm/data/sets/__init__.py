"""Known data sets, read from the files that they are published in."""
