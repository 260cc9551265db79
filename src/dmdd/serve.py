"""Open a page to drop images on, and an endpoint for machines: ``python -m dmdd.serve model=runs/.../model``."""

import socket
import sys

from dmdd.config.command import run
from dmdd.config.schema import ServeSettings

LOOPBACK_NAMES = ["127.0.0.1", "localhost", "::1"]
LOOKING = ("tile", "tile_px", "overlap", "roi", "ignore", "device", "precision")


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Settings; ``sys.argv[1:]`` if None.

    Returns:
        Exit code: 0 after SIGINT or SIGTERM, 2 after bad input.
    """
    return run(serve, ServeSettings, arguments)


def serve(settings: ServeSettings) -> None:
    """Serve as configured until a signal ends it.

    Args:
        settings: Of the server.

    Raises:
        UserError: The model or a setting cannot be used, or the port is taken.
    """
    from pathlib import Path

    from dmdd.core.errors import UserError

    try:
        from dmdd.deploy.serve.api import build_api
        from dmdd.deploy.serve.calibrating import add_calibration
        from dmdd.deploy.serve.limits import Limits
        from dmdd.deploy.serve.model import load_model
        from dmdd.deploy.serve.page import add_page
        from dmdd.deploy.serve.server import run_server
    except ModuleNotFoundError as error:
        raise UserError(f"dmdd serve needs {error.name}; install it: pip install 'dmdd[serve]'") from None

    limits = Limits(**vars(settings.limits))
    listener, loopback = open_port(settings.host, settings.port)
    with listener:
        looking = {name: getattr(settings, name) for name in LOOKING}
        fixed = why_fixed(settings, loopback=loopback)
        model = load_model(Path(settings.model), title=settings.title, fixed=fixed, **looking)
        app, inspection = build_api(model, limits, hosts=LOOPBACK_NAMES if loopback else None)
        add_page(app, inspection, follow=None if settings.follow is None else Path(settings.follow))
        add_calibration(app, inspection)
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"model     {model.title}, {model.input_width} x {model.input_height} px")
        print(f"page      {address}")
        print(f"endpoint  POST {address}/predict, its schema {address}/openapi.json", flush=True)
        if not loopback:
            print(
                f"warning: {host} can be reached from other machines; there is no authentication and no encryption: "
                "whoever reaches it can use it",
                file=sys.stderr,
                flush=True,
            )
        run_server(app, listener)


def why_fixed(settings: ServeSettings, *, loopback: bool) -> str | None:
    """Say why the page may not change the model's thresholds.

    Args:
        settings: Of the server.
        loopback: Whether only this machine reaches it.

    Returns:
        The reason; None if the page may.
    """
    if settings.calibrate is False:
        return "the server was started with calibrate=false"
    if settings.calibrate is None and not loopback:
        return "other machines reach this server; start it with calibrate=true to allow it"
    changed = [name for name in ("tile", "tile_px", "overlap", "roi", "ignore") if getattr(settings, name) is not None]
    if changed:  # thresholds hold for images seen as in training
        return f"the server was started with {changed[0]}=, which the model's own thresholds do not know"
    return None


def open_port(host: str, port: object) -> tuple[socket.socket, bool]:
    """Take a port before anything slow begins.

    Args:
        host: Name or address of this machine.
        port: 0 picks a free one.

    Returns:
        The listening socket, and whether only this machine reaches it.

    Raises:
        UserError: The port is no port, taken, or not ours to take; the host is not this machine.
    """
    import ipaddress

    from dmdd.core.errors import UserError

    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise UserError(f"port={port}: give a whole number from 0 to 65535, 0 picks a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise UserError(
            f"cannot listen on host={host} port={port}: {error.strerror or error}; port=0 picks a free port"
        ) from None
    return listener, ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


if __name__ == "__main__":
    sys.exit(main())
