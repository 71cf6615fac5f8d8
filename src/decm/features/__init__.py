"""Networks whose features of pictures are compared: of weights files, of a package, or trained on the set itself."""
