"""python -m bench.shared_port: the service, on a port that further processes of it may listen on too."""

import socket
import sys

from service import log
from service.__main__ import SWITCH_INTERVAL_S, Server
from service.app import create_app
from service.settings import Settings


def main() -> None:
    """Serve until killed."""
    settings = Settings()
    log.configure(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((settings.host, settings.port))
    Server(create_app(settings), settings).run(sockets=[listening])


if __name__ == "__main__":
    main()
