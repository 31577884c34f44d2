"""`python -m service.keys NAME` makes an API key; the code is in service/access/keys.py."""

import sys

from service.access.keys import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
