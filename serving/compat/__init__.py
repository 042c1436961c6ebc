"""Protocols of other services, translated into the request of /v1/forecasts and back."""
