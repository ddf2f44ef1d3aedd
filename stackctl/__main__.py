"""python -m stackctl: see cli.py."""

import sys

from stackctl.cli import main

sys.exit(main())
