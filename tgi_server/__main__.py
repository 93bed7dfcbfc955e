"""`python -m tgi_server`."""

import sys

from tgi_server.launcher.main import main

if __name__ == "__main__":
    sys.exit(main())
