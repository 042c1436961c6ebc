"""The shipped experiments; read by `pipelines.experiment` alone."""
