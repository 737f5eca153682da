"""Built-in search spaces, one a file: each defines `space`, or `space_for(shape)` where it depends on the data."""
