"""The flags of `diffbir web`."""

from diffbir_jax.console.parser import Parser
from diffbir_jax.serve.flags import add_address_flags, add_limit_flags, add_network_flags


def make_parser() -> Parser:
    """Return the parser of `diffbir web`."""
    parser = Parser(
        prog="diffbir web",
        basic=("version", "port", "host", "weights"),
        description="Restore photos on a page in the browser. The page loads nothing from other hosts.",
        epilog="Ctrl-C finishes all accepted photos and stops. A second Ctrl-C stops at once.",
    )
    add_network_flags(parser.add_argument_group("networks"))
    add_address_flags(parser.add_argument_group("address"), 8080)
    add_limit_flags(parser.add_argument_group("limits"))
    parser.set_defaults(keys=None)
    return parser
