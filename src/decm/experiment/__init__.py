"""From settings to teacher, student and callbacks, the fit, its cost and its scores."""
