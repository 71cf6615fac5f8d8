"""Making data sets: of folders of pictures, of arrays, of latents."""
