"""``python -m msr``."""

import sys

from msr.cli import main

sys.exit(main())
