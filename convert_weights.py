"""Convert published weights: python convert_weights.py --input FILE_OR_FOLDER --output DIR. See --help."""

import signal
import sys

from diffbir_jax.cli.convert_weights import main

if __name__ == "__main__":
    # Ended by a batch system, a run leaves as little behind as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
