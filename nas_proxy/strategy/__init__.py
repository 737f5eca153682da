"""Which architectures to train on the proxy, and what becomes of the best."""
