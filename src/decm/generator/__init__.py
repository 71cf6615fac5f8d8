"""The public API: a trained generator, its files, decoding, its card, and its export."""
