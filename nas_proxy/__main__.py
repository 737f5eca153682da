"""`python -m nas_proxy` is `nas-proxy`."""

from nas_proxy.cli import main

main()
