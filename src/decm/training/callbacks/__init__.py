"""Lightning callbacks: trajectories, EMA, previews, evaluation in the loop, speed."""
