"""Search spaces as values: how they compose, are loaded, measured and limited."""
