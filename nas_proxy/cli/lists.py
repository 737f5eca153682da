"""`nas-proxy datasets` and `nas-proxy spaces`: what the other commands take."""

from nas_proxy.cli.options import Json
from nas_proxy.cli.printing import print_pairs


def datasets_command(as_json: Json = False) -> None:
    """List what --dataset takes."""
    from nas_proxy.data.catalogue import list_datasets

    print_pairs(list_datasets(), as_json=as_json)


def spaces_command(as_json: Json = False) -> None:
    """List the built-in search spaces."""
    from nas_proxy.spaces.built_in import list_spaces

    print_pairs(
        [*list_spaces(), ("FILE.py", "Your own: a file that defines `space`; see the README's tutorial.")],
        as_json=as_json,
    )
