VERSION = "0.1.0"
"""The version of the services and of the distribution; setup.cfg reads it here."""
