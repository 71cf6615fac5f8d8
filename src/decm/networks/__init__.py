"""Networks F(x, t, s, y): pure functions without randomness, conditioned on two times and a label."""
