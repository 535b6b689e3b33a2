"""python -m benchmarks.peers.within '{"python": ..., "module": ..., "environment": ..., "options": ...}'

Becomes a helper in another environment: the same process and pipes, the peer's interpreter.
"""

import json
import os

from benchmarks.helper import ROOT, options

if __name__ == "__main__":
    how = options()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **how["environment"]}
    argv = [how["python"], "-m", how["module"], json.dumps(how["options"])]
    os.execve(argv[0], argv, environment)
