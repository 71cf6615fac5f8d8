"""What keeps a run right: the guard, the watchdog, preemption, checkpoints, drills."""
