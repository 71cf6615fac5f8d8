"""What must hold on a segment: one method per file, each in three pure steps (ask, aim, measure)."""
