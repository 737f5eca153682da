"""A run from end to end: its settings, its folder, its record of trainings and its stages."""
