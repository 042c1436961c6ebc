"""/invocations, /ping and /version: what MLflow's client and SageMaker-style containers speak."""
