"""Files that survive: sealed, with checksums, written whole or not at all; also sharded, and a folder of them."""
