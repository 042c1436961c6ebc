"""The shipped experiments; read by `pipelines.config_files` alone."""
