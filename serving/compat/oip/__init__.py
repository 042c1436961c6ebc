"""The Open Inference Protocol, version 2, as tritonclient and the clients of KServe speak it."""
