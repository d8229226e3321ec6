VERSION = "0.1.0"
"""Of the services and of the distribution; setup.cfg reads it here."""
