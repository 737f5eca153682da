"""Which architectures to train, on the proxy and fully, and what choosing them saved."""
