"""`python -m deltaconv_distill.cli`, which `accelerate launch -m` can start."""

import sys

from .main import main

sys.exit(main())
