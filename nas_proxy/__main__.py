"""`python -m nas_proxy` is `nas-proxy`."""

from nas_proxy.cli.app import main

main()
