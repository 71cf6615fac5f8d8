"""The judges' metrics as readers call them; apart from the judges, so that a table loads without torch."""

TITLES = {"frechet_distance": "Frechet distance", "sliced_wasserstein": "sliced Wasserstein distance"}
