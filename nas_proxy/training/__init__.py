"""Training one network, fast, and many in parallel processes."""
