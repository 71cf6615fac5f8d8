"""The mathematics of flow maps: torch alone, no step counter, no configuration, no rank."""
