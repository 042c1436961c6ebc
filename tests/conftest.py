"""One thread of torch for every test and the processes it starts, and no system metrics.

The tests' tensors are small, and two threads that wait for each other on a busy machine take
thirty times as long as one. What measures the machine is asked for where it is tested.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")

from hypothesis import settings

# Time is no property of a law: a busy machine must not fail one.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")
