"""Condensed sets: distribution matching, selection baselines, accuracy of a set, and what others use."""
